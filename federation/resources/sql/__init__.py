"""The SQL resource provider: access rules, queries, writes and change events."""
