"""What an agent sees of local and remote data together."""
