"""The channels, interceptors and calls of the client chain for threads."""
