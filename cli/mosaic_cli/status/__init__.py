"""The status command."""
