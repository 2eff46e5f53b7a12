"""Peer records: one per enrollment of this gateway at another, the private key sealed."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Delete, Row, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from federation.clock import MICROSECONDS, SYSTEM_CLOCK, Clock
from federation.errors import Action, ConflictError, InputError, NotFoundError, Remedy
from federation.pki.identity_extensions import is_subject
from federation.pki.sealing import Sealer
from federation.store.database import Database, translate_db_errors
from federation.store.records import from_row, to_columns
from federation.store.schema import peers, pending_enrollments

PENDING_LIFETIME_US: Final = 30 * 86_400 * MICROSECONDS
"""Microseconds that the key of an unfinished enrollment is stored."""
LIST_PEERS: Final = Remedy(action=Action.LIST_PEERS)
_NAME: Final = re.compile(r"[!-~]{1,127}\Z")
_UNREADABLE: Final = "the peers cannot be read"

Versions = frozenset[tuple[str, int]]
"""The ids of all peers, each with a version that rises with every change of the peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord:
    """One enrollment: the local user `user` reads at the gateway `gateway` as its user `subject`.

    `name` is this gateway's name for the peer, unique together with `user`. `endpoint` is host:port of the federation
    service, `enrollment_endpoint` of the enrollment service. `revoked_at_us` is when this gateway learned that the peer
    revoked the grant, `None` if it did not.
    """

    id: str
    name: str
    user: str
    gateway: str
    endpoint: str
    grant_id: str
    subject: str
    certificate_pem: str
    key_pem: str = field(repr=False)
    trust_bundle: str
    created_at_us: int
    enrollment_endpoint: str = ""
    revoked_at_us: int | None = None
    revoked_reason: str = ""

    def remedy(self, action: Action) -> Remedy:
        """Return a remedy of this gateway's operator for this enrollment."""
        return Remedy(action=action, peer=self.name, user=self.user, grant_id=self.grant_id)


@dataclass(frozen=True, slots=True)
class PendingRenewal:
    """The new key of a running renewal and its certificate request (DER), stored until the certificate is."""

    key_pem: str = field(repr=False)
    csr_der: bytes


def check_peer(name: str, user: str) -> None:
    """Raise `InputError` for a peer name that is invalid in tags and metadata, or for an invalid user id."""
    if not _NAME.match(name):
        raise InputError("name", "must be 1 to 127 printable ASCII characters without spaces, such as work.example")
    if not is_subject(user):
        raise InputError("user", "must be 1 to 127 printable ASCII characters")


class PeerStore:
    """The peers of this gateway. Every method raises `StoreError` if the database fails."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database, self._sealer, self._clock = database, sealer, clock

    async def all(self) -> tuple[PeerRecord, ...]:
        """Return the peers, sorted by name and user. Raises `SealError` if a key cannot be opened."""
        rows = await self._database.fetch(select(peers), _UNREADABLE)
        return tuple(sorted((self._record(row) for row in rows), key=lambda peer: (peer.name, peer.user)))

    async def get(self, peer_id: str) -> PeerRecord | None:
        """Return a peer by its id. Raises `SealError` if its key cannot be opened."""
        row = await self._database.fetch_one(select(peers).where(peers.c.id == peer_id), _UNREADABLE)
        return None if row is None else self._record(row)

    async def versions(self) -> Versions:
        """Return the versions of all peers, to detect changes without opening keys."""
        rows = await self._database.fetch(select(peers.c.id, peers.c.version), _UNREADABLE)
        return frozenset((row.id, row.version) for row in rows)

    async def check_new(self, *, name: str, user: str, grant_id: str) -> None:
        """Raise the error that `add` would raise for these names."""
        check_peer(name, user)
        conflicting = or_(peers.c.grant_id == grant_id, (peers.c.name == name) & (peers.c.user == user))
        found = await self._database.fetch(select(peers.c.grant_id).where(conflicting), _UNREADABLE)
        if any(row.grant_id == grant_id for row in found):
            problem = f"grant {grant_id} is already enrolled here; list the peers to find it"
            raise ConflictError(problem, remedy=LIST_PEERS)
        if found:
            problem = f"{user} already has a peer named {name}; give another name, or remove that peer first"
            raise ConflictError(problem, remedy=Remedy(action=Action.REMOVE_PEER, peer=name, user=user))

    async def add(self, record: PeerRecord, *, completes: str | None = None) -> None:
        """Store a peer and, in the same transaction, remove the pending enrollment `completes` (a secret hash).

        Raises `ConflictError` if the grant is already enrolled here or the user already has a peer of this name.
        """
        check_peer(record.name, record.user)
        sealed = self._sealer.seal(record.key_pem.encode(), _peer_key(record.id))
        values = to_columns(record, peers, certificate=record.certificate_pem, key_sealed=sealed)
        with translate_db_errors(f"the peer {record.name} cannot be stored"):
            try:
                async with self._database.write() as connection:
                    await connection.execute(insert(peers).values(values))
                    if completes is not None:
                        await connection.execute(_delete_pending(completes))
            except IntegrityError:
                await self.check_new(name=record.name, user=record.user, grant_id=record.grant_id)
                raise

    async def revoke(self, peer_id: str, at_us: int, reason: str) -> None:
        """Record that the peer revoked the grant. Keeps the first instant and reason; ignores an unknown peer."""
        unknown_yet = (peers.c.id == peer_id) & peers.c.revoked_at.is_(None)
        values = {"revoked_at": at_us, "revoked_reason": reason, "version": peers.c.version + 1}
        statement = update(peers).where(unknown_yet).values(values)
        await self._database.execute(statement, failing="the revocation by the peer cannot be stored")

    async def remove(self, peer_id: str) -> None:
        """Delete a peer and its key. Raises `NotFoundError` for an unknown id."""
        statement = delete(peers).where(peers.c.id == peer_id)
        if not await self._database.execute(statement, failing="the peer cannot be removed"):
            raise NotFoundError("peer", peer_id, cure="list the peers", remedy=LIST_PEERS)

    async def pending_renewal(self, peer_id: str, make: Callable[[], PendingRenewal]) -> PendingRenewal:
        """Return the stored key and request of a running renewal, or store and return those of `make`.

        Raises `NotFoundError` for an unknown id.
        """
        made = make()
        values = {
            "pending_key_sealed": self._sealer.seal(made.key_pem.encode(), _renewal_key(peer_id)),
            "pending_csr": made.csr_der,
        }
        with translate_db_errors("the key of the renewal cannot be stored"):
            async with self._database.write() as connection:
                free = (peers.c.id == peer_id, peers.c.pending_csr.is_(None))
                await connection.execute(update(peers).where(*free).values(values))
                wanted = select(peers.c.pending_key_sealed, peers.c.pending_csr).where(peers.c.id == peer_id)
                row = (await connection.execute(wanted)).one_or_none()
        if row is None:
            raise NotFoundError("peer", peer_id, cure="list the peers", remedy=LIST_PEERS)
        key_pem = self._sealer.open(row.pending_key_sealed, _renewal_key(peer_id)).decode("ascii")
        return PendingRenewal(key_pem, row.pending_csr)

    async def renew(self, record: PeerRecord, *, replaces: str) -> None:
        """Replace a peer's certificate, key and trust bundle; this deletes the old key.

        `replaces` is the old certificate (PEM). Raises `ConflictError` if the stored certificate is another one.
        """
        values = {
            "certificate": record.certificate_pem,
            "key_sealed": self._sealer.seal(record.key_pem.encode(), _peer_key(record.id)),
            "trust_bundle": record.trust_bundle,
            "pending_key_sealed": None,
            "pending_csr": None,
            "version": peers.c.version + 1,
        }
        statement = update(peers).where(peers.c.id == record.id, peers.c.certificate == replaces).values(values)
        failing = f"the new certificate for {record.name} cannot be stored"
        if not await self._database.execute(statement, failing=failing):
            raise ConflictError(f"the peer {record.name} was renewed or removed concurrently; retry the renewal")

    async def pending_key(self, secret_hash: str, make: Callable[[], str]) -> str:
        """Return the stored key (PEM) of a running enrollment, or store and return the key of `make`."""
        with translate_db_errors("the key of the enrollment cannot be stored"):
            key, now = make(), self._clock.now_us()
            sealed = self._sealer.seal(key.encode(), _pending_key(secret_hash))
            expired = pending_enrollments.c.created_at < now - PENDING_LIFETIME_US
            try:
                async with self._database.write() as connection:
                    await connection.execute(delete(pending_enrollments).where(expired))
                    await connection.execute(
                        insert(pending_enrollments).values(secret_hash=secret_hash, key_sealed=sealed, created_at=now)
                    )
            except IntegrityError:  # an earlier or concurrent attempt has stored a key
                return await self._find_pending(secret_hash) or key
            return key

    async def remove_pending(self, secret_hash: str) -> None:
        """Delete the key of an enrollment that was refused permanently."""
        failing = "the key of the enrollment cannot be removed"
        await self._database.execute(_delete_pending(secret_hash), failing=failing)

    async def _find_pending(self, secret_hash: str) -> str | None:
        wanted = select(pending_enrollments.c.key_sealed).where(pending_enrollments.c.secret_hash == secret_hash)
        async with self._database.read() as connection:
            sealed = await connection.scalar(wanted)
        return None if sealed is None else self._sealer.open(sealed, _pending_key(secret_hash)).decode("ascii")

    def _record(self, row: Row[Any]) -> PeerRecord:
        key_pem = self._sealer.open(row.key_sealed, _peer_key(row.id)).decode("ascii")
        return from_row(PeerRecord, row, certificate_pem=row.certificate, key_pem=key_pem)


def _delete_pending(secret_hash: str) -> Delete:
    return delete(pending_enrollments).where(pending_enrollments.c.secret_hash == secret_hash)


def _peer_key(peer_id: str) -> str:
    return f"key of peer {peer_id}"


def _renewal_key(peer_id: str) -> str:
    return f"renewal key of peer {peer_id}"


def _pending_key(secret_hash: str) -> str:
    return f"key of enrollment {secret_hash}"
