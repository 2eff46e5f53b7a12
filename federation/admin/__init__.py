"""The operator's service on the gateway's Unix socket, and its client."""
