"""Scopes of grants: the model, its description in words and the difference of two scopes."""
