"""Grants in the database and in memory."""
