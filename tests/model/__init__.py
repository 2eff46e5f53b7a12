"""Checks the model of the lease protocol: `make verify`."""
