import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, select, text, update

from federation.errors import ConflictError, InputError, NotFoundError, StoreError
from federation.pki.authority import IssuedCertificate
from federation.scope.model import RowFilter, Scope
from federation.store import schema
from federation.store.database import Database
from federation.store.grants.model import SUPERSEDED_US, CertificateRecord, Grant, GrantStatus
from federation.store.grants.registry import GrantRegistry
from tests.support.clock import ManualClock
from tests.support.enrollments import SCOPE
from tests.support.pki import PEER, Pki

PKI = Pki()
SECOND = 1_000_000
WIDE = Scope(("tasks", "notes"), ("notes",), 7, {"tasks": RowFilter(frozenset({"T1"}), True)}, 60)


@pytest.fixture
def hand() -> ManualClock:
    """A clock that a test moves."""
    return ManualClock()


async def new_grant(registry: GrantRegistry, **changes: Any) -> Grant:
    """A pending grant."""
    return await registry.create(**({"peer": PEER, "subject": "ada", "scope": SCOPE} | changes))


def certificate(hand: ManualClock, lifetime_s: float = 86_400) -> IssuedCertificate:
    """A certificate valid from the hand's now on."""
    now_us = hand.clock.now_us()
    return replace(PKI.client().issued, not_before_us=now_us, not_after_us=now_us + round(lifetime_s * SECOND))


@pytest.mark.smoke
async def test_a_grant_survives_a_restart(database: Database, hand: ManualClock) -> None:
    """Every field, scope and certificates included, is read back as it was."""
    registry = await GrantRegistry.load(database, hand.clock)
    made = await new_grant(registry, scope=WIDE, expires_at_us=hand.clock.now_us() + 90 * SECOND)
    await registry.add_certificate(made.id, certificate(hand), activate=True)
    registry.record_use(made.id)
    await registry.close()

    again = await GrantRegistry.load(database, hand.clock)

    assert again.all() == registry.all()
    assert again.get(made.id).scope == WIDE
    assert again.get(made.id).status is GrantStatus.ACTIVE


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"peer": "ClientRuntime"}, "peer"),
        ({"peer": ""}, "peer"),
        ({"peer": "home example"}, "peer"),
        ({"subject": ""}, "subject"),
        ({"subject": "a" * 128}, "subject"),
        ({"subject": "ad\u00e4"}, "subject"),
        ({"subject": "ada\n"}, "subject"),
        ({"expires_at_us": 0}, "expires_at"),
        ({"expires_at_us": 1_800_000_000 * SECOND}, "expires_at"),
        ({"expires_at_us": 10**18}, "expires_at"),
    ],
)
async def test_a_wrong_grant_is_not_made(sqlite_url: str, hand: ManualClock, changes: dict, field: str) -> None:
    """The error names the field, and nothing is stored."""
    database = await Database.open(sqlite_url)
    registry = await GrantRegistry.load(database, hand.clock)

    with pytest.raises(InputError) as caught:
        await new_grant(registry, **changes)

    assert caught.value.field == field
    assert registry.all() == (await GrantRegistry.load(database)).all() == ()
    await database.close()


async def test_expiry_follows_the_clock(database: Database, hand: ManualClock) -> None:
    """A grant is expired from its very end on; a revoked one stays revoked."""
    registry = await GrantRegistry.load(database, hand.clock)
    grant = await new_grant(registry, expires_at_us=hand.clock.now_us() + SECOND)

    assert grant.status_at(grant.expires_at_us - 1) is GrantStatus.PENDING
    assert grant.status_at(grant.expires_at_us) is GrantStatus.EXPIRED
    assert (await registry.revoke(grant.id)).status_at(grant.expires_at_us) is GrantStatus.REVOKED


async def test_an_unknown_grant_is_named(database: Database) -> None:
    """Every operation on an unknown grant fails, with a similar id if there is one."""
    registry = await GrantRegistry.load(database)
    known = await new_grant(registry)
    typo = known.id[:-1] + ("0" if known.id[-1] != "0" else "1")

    assert registry.get(typo) is None
    with pytest.raises(NotFoundError, match=f"did you mean {known.id}"):
        await registry.revoke(typo)
    with pytest.raises(NotFoundError, match="no grant 'x'; list the grants"):
        await registry.confirm("x", "0" * 64)
    with pytest.raises(NotFoundError):
        await registry.add_certificate("x", PKI.client().issued, activate=True)
    registry.record_use("x")


async def test_revocation_is_final_and_idempotent(database: Database, hand: ManualClock) -> None:
    """The first instant and reason stay; nothing makes the grant active again, also after a restart."""
    registry = await GrantRegistry.load(database, hand.clock)
    grant = await new_grant(registry)
    await registry.add_certificate(grant.id, certificate(hand), activate=False)
    first = await registry.revoke(grant.id, "left the company")
    hand.advance(60)

    assert await registry.revoke(grant.id, "again") == first
    assert (first.status, first.revoked_reason) == (GrantStatus.REVOKED, "left the company")
    with pytest.raises(ConflictError, match="revoked, which is final"):
        await registry.add_certificate(grant.id, certificate(hand), activate=True)
    with pytest.raises(ConflictError, match="revoked, which is final"):
        await registry.confirm(grant.id, first.newest.fingerprint)
    assert (await GrantRegistry.load(database, hand.clock)).get(grant.id) == first


async def test_a_revocation_refuses_before_it_is_durable(database: Database) -> None:
    """The grant is revoked in memory before the database is written."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)
    revoking = asyncio.create_task(registry.revoke(grant.id))
    async with database.write():
        await asyncio.sleep(0)
        assert registry.get(grant.id).status is GrantStatus.REVOKED
        assert not revoking.done()
    await revoking


class Refusing:
    """A database that refuses every statement on a table, until it is told to stop."""

    def __init__(self, database: Database, begins: str) -> None:
        self._engine, self._begins = database.engine.sync_engine, begins
        event.listen(self._engine, "before_cursor_execute", self._refuse)

    def _refuse(self, _connection, _cursor, statement: str, *_rest: object) -> None:
        if statement.startswith(self._begins):
            raise OSError("disk full")

    def stop(self) -> None:
        event.remove(self._engine, "before_cursor_execute", self._refuse)


async def test_a_revocation_that_cannot_be_stored_holds_and_can_be_repeated(database: Database) -> None:
    """The failing write is reported, calls are refused nevertheless, and revoking again repeats the write."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)
    await registry.add_certificate(grant.id, PKI.client().issued, activate=True)
    refusing = Refusing(database, "UPDATE grants")

    with pytest.raises(StoreError, match=r"revocation is not stored.*revoke it again.*disk full"):
        await registry.revoke(grant.id, "leak")
    assert registry.get(grant.id).status is GrantStatus.REVOKED
    assert (await GrantRegistry.load(database)).get(grant.id).status is GrantStatus.ACTIVE

    refusing.stop()
    await registry.revoke(grant.id, "second try")
    stored = (await GrantRegistry.load(database)).get(grant.id)
    assert (stored.status, stored.revoked_reason) == (GrantStatus.REVOKED, "leak")


async def test_other_writes_reach_memory_only_when_stored(database: Database) -> None:
    """A grant, certificate or confirmation that the database refused is not seen in memory either."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)
    refusing = Refusing(database, "INSERT INTO")
    with pytest.raises(StoreError, match="grant cannot be stored: the database says: disk full"):
        await new_grant(registry)
    with pytest.raises(StoreError, match="certificate of grant"):
        await registry.add_certificate(grant.id, PKI.client().issued, activate=True)
    assert registry.all() == (grant,)

    refusing.stop()
    issued = PKI.client().issued
    pending = await registry.add_certificate(grant.id, issued, activate=False)
    refusing = Refusing(database, "UPDATE grants")
    with pytest.raises(StoreError, match="confirmation of grant"):
        await registry.confirm(grant.id, issued.fingerprint)
    assert registry.get(grant.id) == pending
    refusing.stop()


async def test_a_cancelled_revocation_is_stored_nevertheless(database: Database) -> None:
    """The operator's Ctrl-C between refusal and write does not leave a revocation that a restart forgets."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)
    revoking = asyncio.create_task(registry.revoke(grant.id))
    await asyncio.sleep(0)
    revoking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await revoking
    await registry.close()

    assert (await GrantRegistry.load(database)).get(grant.id).status is GrantStatus.REVOKED


async def test_a_cancelled_write_completes(database: Database) -> None:
    """A grant whose caller gives up while the database is busy is stored, and memory has it too."""
    registry = await GrantRegistry.load(database)
    async with registry._lock:
        making = asyncio.create_task(new_grant(registry))
        await asyncio.sleep(0.01)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
    await registry.close()

    (made,) = registry.all()
    assert (await GrantRegistry.load(database)).all() == (made,)


async def test_a_certificate_is_found_under_its_own_grant_only(database: Database) -> None:
    """The serial of another grant's certificate finds nothing."""
    registry = await GrantRegistry.load(database)
    owner, other = await new_grant(registry), await new_grant(registry)
    issued = PKI.client().issued
    await registry.add_certificate(owner.id, issued, activate=True)

    found = await registry.find_certificate(owner.id, issued.serial)
    assert found is not None
    assert found.serial == issued.serial
    assert await registry.find_certificate(other.id, issued.serial) is None


@pytest.mark.smoke
async def test_a_revocation_wins_over_a_certificate_under_way(database: Database) -> None:
    """A grant revoked while a certificate is being stored stays revoked in memory and in the database."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)

    async def revoke_meanwhile(_connection) -> None:
        asyncio.get_running_loop().create_task(registry.revoke(grant.id))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    await registry.add_certificate(grant.id, PKI.client().issued, activate=True, within=revoke_meanwhile)
    assert registry.get(grant.id).status is GrantStatus.REVOKED
    await registry.close()

    assert (await GrantRegistry.load(database)).get(grant.id).status is GrantStatus.REVOKED


async def test_a_stored_revocation_is_never_undone(database: Database) -> None:
    """Not even a process whose memory is behind makes a revoked grant active again in the database."""
    registry = await GrantRegistry.load(database)
    grant, issued = await new_grant(registry), PKI.client().issued
    await registry.add_certificate(grant.id, issued, activate=False)
    behind = await GrantRegistry.load(database)
    await registry.revoke(grant.id)
    await behind.confirm(grant.id, issued.fingerprint)

    assert (await GrantRegistry.load(database)).get(grant.id).status is GrantStatus.REVOKED


async def test_what_runs_within_is_one_transaction_with_the_certificate(database: Database) -> None:
    """When the companion write fails, there is no certificate, neither in the database nor in memory."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)

    async def fail(_connection) -> None:
        raise ConflictError("lost the race")

    with pytest.raises(ConflictError, match="lost the race"):
        await registry.add_certificate(grant.id, PKI.client().issued, activate=True, within=fail)

    assert registry.get(grant.id) == (await GrantRegistry.load(database)).get(grant.id) == grant


@pytest.mark.parametrize("written", [str.upper, str.strip, lambda f: ":".join(f[i : i + 2] for i in range(0, 64, 2))])
async def test_the_right_fingerprint_activates_a_grant(database: Database, written) -> None:
    """Case and colons of the fingerprint do not matter; confirming again changes nothing."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)
    issued = PKI.client().issued
    pending = await registry.add_certificate(grant.id, issued, activate=False)

    assert pending.status is GrantStatus.PENDING
    assert (await registry.confirm(grant.id, written(issued.fingerprint))).status is GrantStatus.ACTIVE
    assert (await registry.confirm(grant.id, issued.fingerprint)).status is GrantStatus.ACTIVE
    assert (await GrantRegistry.load(database)).get(grant.id).status is GrantStatus.ACTIVE


@pytest.mark.parametrize("wrong", ["", "abc", "0" * 64, "g" * 64])
async def test_a_wrong_fingerprint_activates_nothing(database: Database, wrong: str) -> None:
    """The error names the field, and the grant stays pending."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)
    await registry.add_certificate(grant.id, PKI.client().issued, activate=False)

    with pytest.raises(InputError, match=r"^fingerprint: "):
        await registry.confirm(grant.id, wrong)

    assert registry.get(grant.id).status is GrantStatus.PENDING


async def test_a_grant_without_certificate_cannot_be_confirmed(database: Database) -> None:
    """A grant without a certificate cannot be confirmed."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)

    with pytest.raises(ConflictError, match="no gateway has enrolled"):
        await registry.confirm(grant.id, "0" * 64)


async def test_only_the_newest_certificate_can_be_confirmed(database: Database, hand: ManualClock) -> None:
    """The fingerprint of an earlier certificate does not confirm a later one."""
    registry = await GrantRegistry.load(database, hand.clock)
    grant = await new_grant(registry)
    first, second = certificate(hand), certificate(hand)
    await registry.add_certificate(grant.id, first, activate=False)
    await registry.add_certificate(grant.id, second, activate=False)

    with pytest.raises(InputError, match="fingerprint"):
        await registry.confirm(grant.id, first.fingerprint)
    assert (await registry.confirm(grant.id, second.fingerprint)).status is GrantStatus.ACTIVE


async def test_memory_keeps_accepted_certificates_and_the_newest(database: Database, hand: ManualClock) -> None:
    """Years of renewals do not grow what a gateway holds; the newest one stays known after its end."""
    registry = await GrantRegistry.load(database, hand.clock)
    grant = await new_grant(registry)
    serials = []
    for _ in range(4):
        issued = certificate(hand, 100)
        serials.append(issued.serial)
        await registry.add_certificate(grant.id, issued, activate=True)
        hand.advance(60)

    assert list(registry.get(grant.id).certificates) == serials[2:]
    assert registry.get(grant.id).newest.serial == serials[3]
    assert registry.get(grant.id).is_enrolled(hand.clock.now_us())
    hand.advance(1_000)
    late = (await GrantRegistry.load(database, hand.clock)).get(grant.id)
    assert list(late.certificates) == serials[3:]
    assert not late.is_enrolled(hand.clock.now_us())


def test_a_certificate_is_accepted_until_its_end() -> None:
    """A certificate is not valid at the instant of its end."""
    record = replace(CertificateRecord.of(PKI.client().issued), accepted_until_us=100)

    assert record.is_accepted(99)
    assert not record.is_accepted(100)


async def test_uses_are_written_in_batches(database: Database, hand: ManualClock) -> None:
    """A use shows at once in memory, and in the database after a flush; a failing flush loses none."""
    registry = await GrantRegistry.load(database, hand.clock)
    used, unused = await new_grant(registry), await new_grant(registry)
    registry.record_use(used.id)
    hand.advance(5)
    registry.record_use(used.id)
    now = hand.clock.now_us()
    refusing = Refusing(database, "UPDATE grants")

    with pytest.raises(StoreError, match="last uses"):
        await registry.flush_uses()
    assert registry.get(used.id).last_used_at_us == now
    assert (await GrantRegistry.load(database)).get(used.id).last_used_at_us is None

    refusing.stop()
    await registry.flush_uses()
    stored = await GrantRegistry.load(database)
    assert (stored.get(used.id).last_used_at_us, stored.get(unused.id).last_used_at_us) == (now, None)


async def test_the_stored_last_use_only_moves_forward(database: Database, hand: ManualClock) -> None:
    """A later use replaces the stored one, and a use after the clock was set back does not."""
    registry = await GrantRegistry.load(database, hand.clock)
    grant = await new_grant(registry)
    first = hand.clock.now_us()
    for step_s, last in ((0, first), (60, first + 60 * SECOND), (-30, first + 60 * SECOND)):
        hand.advance(step_s)
        registry.record_use(grant.id)
        await registry.flush_uses()
        assert (await GrantRegistry.load(database)).get(grant.id).last_used_at_us == last


async def test_the_end_of_a_superseded_certificate_outlives_a_failed_write(
    database: Database, hand: ManualClock
) -> None:
    """An end that the database refused is stored by the next flush, so a restart does not bring back the later end."""
    registry = await GrantRegistry.load(database, hand.clock)
    grant, old, new = await new_grant(registry), certificate(hand), certificate(hand)
    for issued in (old, new):
        await registry.add_certificate(grant.id, issued, activate=True)
    registry.record_use(grant.id, new.serial)
    refusing = Refusing(database, "UPDATE certificates")
    with pytest.raises(StoreError, match="last uses"):
        await registry.flush_uses()

    refusing.stop()
    await registry.flush_uses()
    stored = (await GrantRegistry.load(database, hand.clock)).get(grant.id).certificates[old.serial]
    assert stored.accepted_until_us == hand.clock.now_us() + SUPERSEDED_US < old.not_after_us


async def test_a_use_never_undoes_a_revocation(database: Database) -> None:
    """Recording a use of a revoked grant leaves it revoked."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)
    await registry.revoke(grant.id)
    registry.record_use(grant.id)

    assert registry.get(grant.id).status is GrantStatus.REVOKED


@pytest.mark.parametrize("reason", ["a\nb", "\x1b[2J", "x" * 501])
async def test_a_reason_is_one_printable_line(database: Database, reason: str) -> None:
    """A reason that would spoil a terminal or a log is refused, and nothing is revoked."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)

    with pytest.raises(InputError, match=r"^reason: "):
        await registry.revoke(grant.id, reason)

    assert registry.get(grant.id).status is GrantStatus.PENDING


@pytest.mark.parametrize(("column", "value"), [("scope", "{}"), ("status", "odd")])
async def test_an_invalid_grant_in_the_database_is_named(database: Database, column: str, value: str) -> None:
    """A row that this program did not write stops the start with the grant's id, not with a trace."""
    registry = await GrantRegistry.load(database)
    grant = await new_grant(registry)
    async with database.write() as connection:
        await connection.execute(update(schema.grants).values({column: value}))

    with pytest.raises(StoreError, match=f"grant {grant.id} in the database cannot be read"):
        await GrantRegistry.load(database)


async def test_a_missing_table_is_a_store_error(sqlite_url: str) -> None:
    """Whatever the database says when grants are read ends as one clear error."""
    database = await Database.open(sqlite_url)
    async with database.write() as connection:
        await connection.execute(text("DROP TABLE certificates"))

    with pytest.raises(StoreError, match="the grants cannot be read: the database says: no such table"):
        await GrantRegistry.load(database)
    await database.close()


async def test_one_certificate_cannot_be_added_twice(database: Database) -> None:
    """A serial is unique."""
    registry = await GrantRegistry.load(database)
    grant, issued = await new_grant(registry), PKI.client().issued
    await registry.add_certificate(grant.id, issued, activate=True)

    with pytest.raises(StoreError, match="cannot be stored"):
        await registry.add_certificate(grant.id, issued, activate=True)

    async with database.read() as connection:
        assert len((await connection.execute(select(schema.certificates))).all()) == 1
