"""The query commands."""
