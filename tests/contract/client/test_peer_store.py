import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from federation.errors import Action, ConflictError, InputError, NotFoundError, Remedy, SealError, StoreError
from federation.pki.authority import Authority
from federation.pki.sealing import Sealer
from federation.store.database import Database
from federation.store.identity import load_identity, save_identity
from federation.store.peers import PeerRecord, PeerStore
from federation.store.schema import gateway_identity, peers, pending_enrollments
from tests.support.clock import ManualClock
from tests.support.enrollments import SEALER

RECORD = PeerRecord(
    id="00000000-0000-4000-8000-000000000001",
    name="work",
    user="ada",
    gateway="work.example",
    endpoint="10.0.0.7:7443",
    grant_id="11111111-2222-4333-8444-555555555555",
    subject="ada.l",
    certificate_pem="certificate",
    key_pem="-----BEGIN PRIVATE KEY-----",
    trust_bundle="bundle",
    created_at_us=1,
)
SECOND = replace(RECORD, id="2", name="lab", grant_id="g2")


async def test_peers_are_read_back_in_order(database: Database) -> None:
    """Every field comes back, the key opened; peers are sorted by name and user."""
    store = PeerStore(database, SEALER)
    await store.add(RECORD)
    await store.add(SECOND)

    assert await PeerStore(database, SEALER).all() == (SECOND, RECORD)
    assert "PRIVATE" not in repr(RECORD)


@pytest.mark.parametrize(
    ("changes", "complaint", "remedy"),
    [
        (
            {"name": "other"},
            "grant 11111111-2222-4333-8444-555555555555 is already enrolled here",
            Remedy(action=Action.LIST_PEERS),
        ),
        ({"user": "bea"}, "is already enrolled here", Remedy(action=Action.LIST_PEERS)),
        (
            {"grant_id": "g2"},
            "ada already has a peer named work",
            Remedy(action=Action.REMOVE_PEER, peer=RECORD.name, user="ada"),
        ),
    ],
)
async def test_a_known_grant_or_name_is_a_conflict(
    database: Database, changes: dict[str, str], complaint: str, remedy: Remedy
) -> None:
    """The second enrollment of a grant, or of a name for one user, is refused before and at the insert."""
    store = PeerStore(database, SEALER)
    await store.add(RECORD)
    second = replace(RECORD, id="2", **changes)

    with pytest.raises(ConflictError, match=complaint) as refused:
        await store.check_new(name=second.name, user=second.user, grant_id=second.grant_id)
    assert refused.value.remedy == remedy
    with pytest.raises(ConflictError, match=complaint):
        await store.add(second)
    assert await store.all() == (RECORD,)


async def test_two_users_may_have_a_peer_of_one_name(database: Database) -> None:
    """A name is unique for a user, not for the gateway."""
    store = PeerStore(database, SEALER)
    await store.add(RECORD)
    await store.add(replace(RECORD, id="2", user="bea", grant_id="g2"))

    assert [peer.user for peer in await store.all()] == ["ada", "bea"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "a b"),
        ("name", "wörk"),
        ("name", "a\n"),
        ("name", "a" * 128),
        ("user", ""),
        ("user", "ü"),
    ],
)
async def test_names_that_metadata_cannot_carry_are_refused(sqlite_url: str, field: str, value: str) -> None:
    """The error names the field; nothing is stored."""
    database = await Database.open(sqlite_url)
    store = PeerStore(database, SEALER)

    with pytest.raises(InputError) as caught:
        await store.add(replace(RECORD, **{field: value}))

    assert caught.value.field == field
    assert await store.all() == ()
    await database.close()


async def test_a_removed_peer_is_gone_with_its_key(database: Database) -> None:
    """Removing deletes the row; removing again is an error."""
    store = PeerStore(database, SEALER)
    await store.add(RECORD)
    await store.remove(RECORD.id)

    assert await store.all() == ()
    with pytest.raises(NotFoundError, match="list the peers") as unknown:
        await store.remove(RECORD.id)
    assert unknown.value.remedy == Remedy(action=Action.LIST_PEERS)


async def test_keys_swapped_in_the_database_do_not_open(database: Database) -> None:
    """A sealed key belongs to its own row: who can write to the database cannot hand one peer's key to another."""
    store = PeerStore(database, SEALER)
    await store.add(RECORD)
    await store.add(SECOND)
    async with database.write() as connection:
        sealed = await connection.scalar(select(peers.c.key_sealed).where(peers.c.id == RECORD.id))
        await connection.execute(update(peers).where(peers.c.id == SECOND.id).values(key_sealed=sealed))

    with pytest.raises(SealError, match="key of peer 2"):
        await store.all()


async def test_another_seal_key_opens_no_peer(database: Database) -> None:
    """A database restored without its seal key says so."""
    await PeerStore(database, SEALER).add(RECORD)

    with pytest.raises(SealError, match=r"seal\.key"):
        await PeerStore(database, Sealer(bytes(32))).all()


async def test_a_pending_key_is_made_once(database: Database) -> None:
    """Asking again for the key of an enrollment under way gives the first one, also after a restart."""
    store = PeerStore(database, SEALER)

    assert await store.pending_key("h", lambda: "first") == "first"
    assert await PeerStore(database, SEALER).pending_key("h", lambda: "second") == "first"
    await store.remove_pending("h")
    assert await store.pending_key("h", lambda: "third") == "third"


async def test_one_token_pasted_twice_at_once_has_one_key(database: Database) -> None:
    """Concurrent enrollments with one token agree on a key."""
    store = PeerStore(database, SEALER)
    keys = await asyncio.gather(*(store.pending_key("h", lambda n=n: f"key {n}") for n in range(8)))

    assert len(set(keys)) == 1
    assert await store.pending_key("h", lambda: "other") == keys[0]


async def test_keys_of_enrollments_that_never_ended_are_forgotten(database: Database) -> None:
    """The next enrollment deletes pending keys older than 30 days."""
    hand = ManualClock()
    store = PeerStore(database, SEALER, hand.clock)
    await store.pending_key("old", lambda: "old")
    hand.advance(29 * 86_400)
    await store.pending_key("young", lambda: "young")
    hand.advance(2 * 86_400)
    await store.pending_key("new", lambda: "new")

    async with database.read() as connection:
        kept = (await connection.scalars(select(pending_enrollments.c.secret_hash))).all()
    assert sorted(kept) == ["new", "young"]


async def test_a_stored_peer_ends_its_pending_enrollment(database: Database) -> None:
    """Peer and pending key change hands in one transaction: a refused peer leaves the key where it was."""
    store = PeerStore(database, SEALER)
    await store.pending_key("h", lambda: "key")
    await store.add(RECORD)
    with pytest.raises(ConflictError):
        await store.add(replace(RECORD, id="2"), completes="h")
    assert await store.pending_key("h", lambda: "other") == "key"

    await store.add(SECOND, completes="h")
    assert await store.pending_key("h", lambda: "other") == "other"


async def test_a_conflict_of_ids_is_a_store_error(database: Database) -> None:
    """A collision that is no conflict of names is reported as what the database says."""
    store = PeerStore(database, SEALER)
    await store.add(RECORD)

    with pytest.raises(StoreError, match="peer lab cannot be stored"):
        await store.add(replace(SECOND, id=RECORD.id))


async def test_a_gateway_finds_its_own_identity_again(database: Database) -> None:
    """The stored authority loads unchanged, and cannot be overwritten by another."""
    authority = Authority.create("work.example", ["127.0.0.1"])
    assert await load_identity(database, SEALER) is None
    await save_identity(database, SEALER, authority)

    assert await load_identity(database, SEALER) == authority
    with pytest.raises(ConflictError, match="already holds the identity"):
        await save_identity(database, SEALER, Authority.create("other.example"))
    assert await load_identity(database, SEALER) == authority


async def test_an_identity_does_not_open_with_another_seal_key(database: Database) -> None:
    """The error names the seal key file; keys sealed for another purpose do not open either."""
    await save_identity(database, SEALER, Authority.create("work.example"))

    with pytest.raises(SealError, match=r"authority key cannot be opened.*seal\.key"):
        await load_identity(database, Sealer(bytes(32)))

    async with database.write() as connection:
        sealed = await connection.scalar(select(gateway_identity.c.server_key_sealed))
        await connection.execute(update(gateway_identity).values(ca_key_sealed=sealed))
    with pytest.raises(SealError, match="authority key"):
        await load_identity(database, SEALER)


async def test_a_revocation_by_the_peer_is_kept_and_its_first_reason_stays(database: Database) -> None:
    """When and why a peer revoked its grant is there after a restart; hearing it again changes nothing."""
    store = PeerStore(database, SEALER)
    await store.add(RECORD)
    await store.revoke(RECORD.id, 7, "project over")
    await store.revoke(RECORD.id, 9, "again")
    await store.revoke("nobody", 9, "who?")

    [kept] = await store.all()
    assert (kept.revoked_at_us, kept.revoked_reason) == (7, "project over")
