"""The gateway's own data behind one protocol, and the embedded SQL provider."""
