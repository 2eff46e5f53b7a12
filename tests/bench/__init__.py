"""Compares the client chain with bare gRPC in one interleaved run: `python -m tests.bench`."""
