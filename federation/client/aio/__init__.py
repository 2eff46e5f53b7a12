"""The asyncio channels, interceptors and calls of the client chain."""
