"""Handlers of the Admin RPCs."""
