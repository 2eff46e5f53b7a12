"""The sources that a request selects: `local`, `federated:<peer>` or `all`. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from federation.errors import InputError, unknown_peer
from federation.store.peers import PeerRecord
from federation.suggest import near_matches

LOCAL: Final = "local"
ALL: Final = "all"
FEDERATED: Final = "federated:"
MOST_NAMED: Final = 5
"""Peers of one host that an error lists."""


class Chosen(NamedTuple):
    """The selected sources. `argument` is the normalised source for page tokens: a peer always by its name."""

    argument: str
    names: tuple[str, ...]
    """Every selected source."""


def source_of(peer: str) -> str:
    """Return the source of a peer: `federated:<peer>`."""
    return FEDERATED + peer


def name_of(source: str) -> str:
    """Return the name of the peer of a source, empty for `local`."""
    return source.removeprefix(FEDERATED) if source.startswith(FEDERATED) else ""


def choose(source: str, peers: Sequence[PeerRecord]) -> Chosen:
    """Return the sources that an argument selects among these peers. A peer may also be named by its host or endpoint.

    Raises `InputError` for an invalid argument, `NotFoundError` with near matches for an unknown peer.
    """
    if source == LOCAL:
        return Chosen(LOCAL, (LOCAL,))
    if source == ALL:
        return Chosen(ALL, (LOCAL, *(source_of(peer.name) for peer in peers)))
    name = name_of(source)
    if not name:
        raise InputError("source", f"{source[:80]!r} is none of local, federated:PEER and all")
    found = source_of(_found(name, peers))
    return Chosen(found, (found,))


def _found(name: str, peers: Sequence[PeerRecord]) -> str:
    names = [peer.name for peer in peers]
    if name in names:
        return name
    at_host = [peer.name for peer in peers if name in {peer.endpoint, _host(peer.endpoint)}]
    if len(at_host) == 1:
        return at_host[0]
    if at_host:
        more = f" and {len(at_host) - MOST_NAMED} more" if len(at_host) > MOST_NAMED else ""
        raise InputError(
            "source", f"{name!r} is the host of {' and '.join(at_host[:MOST_NAMED])}{more}; name one of them"
        )
    near = near_matches(name, {*names, *(_host(peer.endpoint) for peer in peers)})
    raise unknown_peer(name[:80], near)


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]")
