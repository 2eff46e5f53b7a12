"""The database of a gateway: grants, peers, enrollment tokens, audit events. SQLAlchemy with SQLite or PostgreSQL."""
