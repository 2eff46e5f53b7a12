"""Commands on grants."""
