"""Sessions: requests of one user to local data and peers together."""
