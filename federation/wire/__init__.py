"""What both ends of the wire must agree on: metadata keys, rich errors, query hashes, channel options."""
