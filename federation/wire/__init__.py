"""The wire contract of both sides: metadata keys, rich errors, query hashes, channel options."""
