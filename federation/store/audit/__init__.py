"""Audit events in the database and in day files."""
