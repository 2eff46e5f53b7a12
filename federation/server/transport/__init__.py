"""Ports, TLS and health of the serving gateway."""
