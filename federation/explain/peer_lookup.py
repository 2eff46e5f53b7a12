"""Look-up of an enrollment in the gateway's store, whether the gateway is running or not."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from federation.client.peers.store import PeerRepository
from federation.config import GatewayConfig
from federation.errors import (
    Action,
    ConfigError,
    GatewayUnavailableError,
    InputError,
    NotFoundError,
    Remedy,
    SealError,
    StoreError,
    unknown_peer,
)
from federation.store.peers import PeerRecord
from federation.suggest import near_matches


def read(directory: Path) -> tuple[GatewayConfig, tuple[PeerRecord, ...]]:
    """Return a gateway's configuration and its peers with their keys. Do not call it in a running event loop.

    Raises `GatewayUnavailableError` with the cause if the configuration or the store cannot be read.
    """
    try:
        config = GatewayConfig.load(directory)
        return config, asyncio.run(PeerRepository(config).all())
    except (ConfigError, StoreError, SealError) as e:
        raise GatewayUnavailableError(f"cannot read the peers of the gateway: {e}", remedy=e.remedy) from e


def choose(records: Sequence[PeerRecord], name: str, user: str = "") -> PeerRecord:
    """Return one enrollment. `user` may be empty if only one local user is enrolled at the peer.

    Raises `NotFoundError` with near matches, and `InputError` if `user` is required.
    """
    users = {record.user: record for record in records if record.name == name}
    if not users:
        near = near_matches(name, {record.name for record in records})
        raise unknown_peer(name, near)
    if not user and len(users) > 1:
        enrolled = f"{', '.join(sorted(users))} are enrolled at {name}"
        raise InputError("user", f"{enrolled}; say which", remedy=Remedy(action=Action.CHOOSE_USER))
    if user and user not in users:
        raise NotFoundError(
            f"enrollment at {name} for user", user, near_matches(user, users), f"enrolled: {', '.join(sorted(users))}"
        )
    return users[user] if user else next(iter(users.values()))
