"""Conversion of the gateway's records to messages of the Admin RPCs."""
