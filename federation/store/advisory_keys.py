"""Keys of the PostgreSQL advisory locks of a gateway's database.

PostgreSQL keeps advisory locks per database, and a database belongs to one gateway, so each key is one number for all
gateways. A key is part of the contract between versions: processes of two versions exclude each other only while both
use the same number, so a number never gets a second meaning.
"""

from enum import IntEnum

__all__ = ["AdvisoryKey"]


class AdvisoryKey(IntEnum):
    """The number that each advisory lock is taken with."""

    MIGRATION = 20_746_023
    """Held while the schema is migrated, so that two processes that start together do not migrate together."""
    WRITE_ROWS = 20_746_024
    """Held while rows, users and memberships are written, so that what a write has read still holds at its commit."""
    APPEND_AUDIT = 20_746_025
    """Held while audit events are appended, so that their numbers become visible in ascending order."""
    SERVING = 20_746_100
    """Held by the process that serves the gateway, so that no other process serves or imports directly."""
