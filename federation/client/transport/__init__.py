"""Connections, credentials and the background loop of the client."""
