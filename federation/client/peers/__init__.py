"""Peers of a gateway directory: one enrollment each."""
