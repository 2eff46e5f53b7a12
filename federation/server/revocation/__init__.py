"""Revocation and scope reduction: leases, the protocol and its receipts."""
