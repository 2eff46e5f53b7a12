"""Watches: one stream a peer that receives revocations and changes."""
