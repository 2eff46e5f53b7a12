"""Availability of peers inside a session."""
