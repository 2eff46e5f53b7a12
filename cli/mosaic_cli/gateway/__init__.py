"""Commands on the gateway itself."""
