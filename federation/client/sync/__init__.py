"""The blocking face of the client chain."""
