"""Commands on peers."""
