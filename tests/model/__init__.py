"""The lease protocol's model and its checker: `make verify`."""
