"""Served watches: subscriptions, events and their acknowledgements."""
