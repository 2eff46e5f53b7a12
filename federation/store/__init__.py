"""What a gateway keeps: grants, peers, enrollment tokens, audit. SQLAlchemy over SQLite or PostgreSQL."""
