"""The response cache: pure policy over an injected clock."""
