"""What the chain costs, against bare gRPC on the same machine in the same minute: `python -m tests.bench`."""
