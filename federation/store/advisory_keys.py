"""Keys of the PostgreSQL advisory locks of a gateway's database.

Advisory locks are per database, and a database belongs to one gateway, so each key is one number for all gateways.
Processes of different versions exclude each other only if they use the same numbers: never reuse a number for another
purpose.
"""

from enum import IntEnum


class AdvisoryKey(IntEnum):
    """The key of each advisory lock."""

    MIGRATION = 20_746_023
    """Held while the schema is migrated, so that two starting processes do not migrate concurrently."""
    WRITE_ROWS = 20_746_024
    """Held while rows, users and memberships are written, so that what a write has read is unchanged at its commit."""
    APPEND_AUDIT = 20_746_025
    """Held while audit events are appended, so that their numbers become visible in ascending order."""
    SERVING = 20_746_100
    """Held by the process that serves the gateway, so that no other process serves or imports directly."""
