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
    """Time that stands still until it is moved."""
    return ManualClock()


async def new_grant(book: GrantRegistry, **changes: Any) -> Grant:
    """A pending grant."""
    return await book.create(**({"peer": PEER, "subject": "ada", "scope": SCOPE} | changes))


def certificate(hand: ManualClock, lifetime_s: float = 86_400) -> IssuedCertificate:
    """A certificate valid from the hand's now on."""
    now_us = hand.clock.now_us()
    return replace(PKI.client().issued, not_before_us=now_us, not_after_us=now_us + round(lifetime_s * SECOND))


@pytest.mark.smoke
async def test_a_grant_survives_a_restart(database: Database, hand: ManualClock) -> None:
    """Every field, scope and certificates included, is read back as it was."""
    book = await GrantRegistry.load(database, hand.clock)
    made = await new_grant(book, scope=WIDE, expires_at_us=hand.clock.now_us() + 90 * SECOND)
    await book.add_certificate(made.id, certificate(hand), activate=True)
    book.record_use(made.id)
    await book.close()

    again = await GrantRegistry.load(database, hand.clock)

    assert again.all() == book.all()
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
    book = await GrantRegistry.load(database, hand.clock)

    with pytest.raises(InputError) as caught:
        await new_grant(book, **changes)

    assert caught.value.field == field
    assert book.all() == (await GrantRegistry.load(database)).all() == ()
    await database.close()


async def test_expiry_follows_the_clock(database: Database, hand: ManualClock) -> None:
    """A grant is expired from its very end on; a revoked one stays revoked."""
    book = await GrantRegistry.load(database, hand.clock)
    grant = await new_grant(book, expires_at_us=hand.clock.now_us() + SECOND)

    assert grant.status_at(grant.expires_at_us - 1) is GrantStatus.PENDING
    assert grant.status_at(grant.expires_at_us) is GrantStatus.EXPIRED
    assert (await book.revoke(grant.id)).status_at(grant.expires_at_us) is GrantStatus.REVOKED


async def test_an_unknown_grant_is_named(database: Database) -> None:
    """Every operation on an unknown grant fails, with a similar id if there is one."""
    book = await GrantRegistry.load(database)
    known = await new_grant(book)
    typo = known.id[:-1] + ("0" if known.id[-1] != "0" else "1")

    assert book.get(typo) is None
    with pytest.raises(NotFoundError, match=f"did you mean {known.id}"):
        await book.revoke(typo)
    with pytest.raises(NotFoundError, match="no grant 'x'; list the grants"):
        await book.confirm("x", "0" * 64)
    with pytest.raises(NotFoundError):
        await book.add_certificate("x", PKI.client().issued, activate=True)
    book.record_use("x")


async def test_revocation_is_final_and_idempotent(database: Database, hand: ManualClock) -> None:
    """The first instant and reason stay; nothing makes the grant active again, also after a restart."""
    book = await GrantRegistry.load(database, hand.clock)
    grant = await new_grant(book)
    await book.add_certificate(grant.id, certificate(hand), activate=False)
    first = await book.revoke(grant.id, "left the company")
    hand.advance(60)

    assert await book.revoke(grant.id, "again") == first
    assert (first.status, first.revoked_reason) == (GrantStatus.REVOKED, "left the company")
    with pytest.raises(ConflictError, match="revoked, which is final"):
        await book.add_certificate(grant.id, certificate(hand), activate=True)
    with pytest.raises(ConflictError, match="revoked, which is final"):
        await book.confirm(grant.id, first.newest.fingerprint)
    assert (await GrantRegistry.load(database, hand.clock)).get(grant.id) == first


async def test_a_revocation_refuses_before_it_is_durable(database: Database) -> None:
    """Memory says revoked before the database was asked."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)
    revoking = asyncio.create_task(book.revoke(grant.id))
    async with database.write():
        await asyncio.sleep(0)
        assert book.get(grant.id).status is GrantStatus.REVOKED
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
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)
    await book.add_certificate(grant.id, PKI.client().issued, activate=True)
    refusing = Refusing(database, "UPDATE grants")

    with pytest.raises(StoreError, match=r"revocation is not stored.*revoke it again.*disk full"):
        await book.revoke(grant.id, "leak")
    assert book.get(grant.id).status is GrantStatus.REVOKED
    assert (await GrantRegistry.load(database)).get(grant.id).status is GrantStatus.ACTIVE

    refusing.stop()
    await book.revoke(grant.id, "second try")
    stored = (await GrantRegistry.load(database)).get(grant.id)
    assert (stored.status, stored.revoked_reason) == (GrantStatus.REVOKED, "leak")


async def test_other_writes_reach_memory_only_when_stored(database: Database) -> None:
    """A grant, certificate or confirmation that the database refused is not seen in memory either."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)
    refusing = Refusing(database, "INSERT INTO")
    with pytest.raises(StoreError, match="grant cannot be stored: the database says: disk full"):
        await new_grant(book)
    with pytest.raises(StoreError, match="certificate of grant"):
        await book.add_certificate(grant.id, PKI.client().issued, activate=True)
    assert book.all() == (grant,)

    refusing.stop()
    issued = PKI.client().issued
    pending = await book.add_certificate(grant.id, issued, activate=False)
    refusing = Refusing(database, "UPDATE grants")
    with pytest.raises(StoreError, match="confirmation of grant"):
        await book.confirm(grant.id, issued.fingerprint)
    assert book.get(grant.id) == pending
    refusing.stop()


async def test_a_cancelled_revocation_is_stored_nevertheless(database: Database) -> None:
    """The operator's Ctrl-C between refusal and write does not leave a revocation that a restart forgets."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)
    revoking = asyncio.create_task(book.revoke(grant.id))
    await asyncio.sleep(0)
    revoking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await revoking
    await book.close()

    assert (await GrantRegistry.load(database)).get(grant.id).status is GrantStatus.REVOKED


async def test_a_cancelled_write_completes(database: Database) -> None:
    """A grant whose caller gives up while the database is busy is stored, and memory has it too."""
    book = await GrantRegistry.load(database)
    async with book._lock:
        making = asyncio.create_task(new_grant(book))
        await asyncio.sleep(0.01)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
    await book.close()

    (made,) = book.all()
    assert (await GrantRegistry.load(database)).all() == (made,)


async def test_a_certificate_is_found_under_its_own_grant_only(database: Database) -> None:
    """The serial of another grant's certificate finds nothing."""
    book = await GrantRegistry.load(database)
    owner, other = await new_grant(book), await new_grant(book)
    issued = PKI.client().issued
    await book.add_certificate(owner.id, issued, activate=True)

    found = await book.find_certificate(owner.id, issued.serial)
    assert found is not None
    assert found.serial == issued.serial
    assert await book.find_certificate(other.id, issued.serial) is None


@pytest.mark.smoke
async def test_a_revocation_wins_over_a_certificate_under_way(database: Database) -> None:
    """A grant revoked while a certificate is being stored stays revoked in memory and in the database."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)

    async def revoke_meanwhile(_connection) -> None:
        asyncio.get_running_loop().create_task(book.revoke(grant.id))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    await book.add_certificate(grant.id, PKI.client().issued, activate=True, within=revoke_meanwhile)
    assert book.get(grant.id).status is GrantStatus.REVOKED
    await book.close()

    assert (await GrantRegistry.load(database)).get(grant.id).status is GrantStatus.REVOKED


async def test_a_stored_revocation_is_never_undone(database: Database) -> None:
    """Not even a process whose memory is behind makes a revoked grant active again in the database."""
    book = await GrantRegistry.load(database)
    grant, issued = await new_grant(book), PKI.client().issued
    await book.add_certificate(grant.id, issued, activate=False)
    behind = await GrantRegistry.load(database)
    await book.revoke(grant.id)
    await behind.confirm(grant.id, issued.fingerprint)

    assert (await GrantRegistry.load(database)).get(grant.id).status is GrantStatus.REVOKED


async def test_what_runs_within_is_one_transaction_with_the_certificate(database: Database) -> None:
    """When the companion write fails, there is no certificate, neither in the database nor in memory."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)

    async def fail(_connection) -> None:
        raise ConflictError("lost the race")

    with pytest.raises(ConflictError, match="lost the race"):
        await book.add_certificate(grant.id, PKI.client().issued, activate=True, within=fail)

    assert book.get(grant.id) == (await GrantRegistry.load(database)).get(grant.id) == grant


@pytest.mark.parametrize("written", [str.upper, str.strip, lambda f: ":".join(f[i : i + 2] for i in range(0, 64, 2))])
async def test_the_right_fingerprint_activates_a_grant(database: Database, written) -> None:
    """Case and colons of the fingerprint do not matter; confirming again changes nothing."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)
    issued = PKI.client().issued
    pending = await book.add_certificate(grant.id, issued, activate=False)

    assert pending.status is GrantStatus.PENDING
    assert (await book.confirm(grant.id, written(issued.fingerprint))).status is GrantStatus.ACTIVE
    assert (await book.confirm(grant.id, issued.fingerprint)).status is GrantStatus.ACTIVE
    assert (await GrantRegistry.load(database)).get(grant.id).status is GrantStatus.ACTIVE


@pytest.mark.parametrize("wrong", ["", "abc", "0" * 64, "g" * 64])
async def test_a_wrong_fingerprint_activates_nothing(database: Database, wrong: str) -> None:
    """The error names the field, and the grant stays pending."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)
    await book.add_certificate(grant.id, PKI.client().issued, activate=False)

    with pytest.raises(InputError, match=r"^fingerprint: "):
        await book.confirm(grant.id, wrong)

    assert book.get(grant.id).status is GrantStatus.PENDING


async def test_a_grant_without_certificate_cannot_be_confirmed(database: Database) -> None:
    """There is nothing to compare yet."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)

    with pytest.raises(ConflictError, match="no gateway has enrolled"):
        await book.confirm(grant.id, "0" * 64)


async def test_only_the_newest_certificate_can_be_confirmed(database: Database, hand: ManualClock) -> None:
    """The fingerprint of an earlier certificate does not confirm a later one."""
    book = await GrantRegistry.load(database, hand.clock)
    grant = await new_grant(book)
    first, second = certificate(hand), certificate(hand)
    await book.add_certificate(grant.id, first, activate=False)
    await book.add_certificate(grant.id, second, activate=False)

    with pytest.raises(InputError, match="fingerprint"):
        await book.confirm(grant.id, first.fingerprint)
    assert (await book.confirm(grant.id, second.fingerprint)).status is GrantStatus.ACTIVE


async def test_memory_keeps_accepted_certificates_and_the_newest(database: Database, hand: ManualClock) -> None:
    """Years of renewals do not grow what a gateway holds; the newest one stays known after its end."""
    book = await GrantRegistry.load(database, hand.clock)
    grant = await new_grant(book)
    serials = []
    for _ in range(4):
        issued = certificate(hand, 100)
        serials.append(issued.serial)
        await book.add_certificate(grant.id, issued, activate=True)
        hand.advance(60)

    assert list(book.get(grant.id).certificates) == serials[2:]
    assert book.get(grant.id).newest.serial == serials[3]
    assert book.get(grant.id).is_enrolled(hand.clock.now_us())
    hand.advance(1_000)
    late = (await GrantRegistry.load(database, hand.clock)).get(grant.id)
    assert list(late.certificates) == serials[3:]
    assert not late.is_enrolled(hand.clock.now_us())


def test_a_certificate_is_accepted_until_its_end() -> None:
    """The end itself is outside."""
    record = replace(CertificateRecord.of(PKI.client().issued), accepted_until_us=100)

    assert record.is_accepted(99)
    assert not record.is_accepted(100)


async def test_uses_are_written_in_batches(database: Database, hand: ManualClock) -> None:
    """A use shows at once in memory, and in the database after a flush; a failing flush loses none."""
    book = await GrantRegistry.load(database, hand.clock)
    used, unused = await new_grant(book), await new_grant(book)
    book.record_use(used.id)
    hand.advance(5)
    book.record_use(used.id)
    now = hand.clock.now_us()
    refusing = Refusing(database, "UPDATE grants")

    with pytest.raises(StoreError, match="last uses"):
        await book.flush_uses()
    assert book.get(used.id).last_used_at_us == now
    assert (await GrantRegistry.load(database)).get(used.id).last_used_at_us is None

    refusing.stop()
    await book.flush_uses()
    stored = await GrantRegistry.load(database)
    assert (stored.get(used.id).last_used_at_us, stored.get(unused.id).last_used_at_us) == (now, None)


async def test_the_stored_last_use_only_moves_forward(database: Database, hand: ManualClock) -> None:
    """A later use replaces the stored one, and a use after the clock was set back does not."""
    book = await GrantRegistry.load(database, hand.clock)
    grant = await new_grant(book)
    first = hand.clock.now_us()
    for step_s, last in ((0, first), (60, first + 60 * SECOND), (-30, first + 60 * SECOND)):
        hand.advance(step_s)
        book.record_use(grant.id)
        await book.flush_uses()
        assert (await GrantRegistry.load(database)).get(grant.id).last_used_at_us == last


async def test_the_end_of_a_superseded_certificate_outlives_a_failed_write(
    database: Database, hand: ManualClock
) -> None:
    """An end that the database refused is stored by the next flush, so a restart does not bring back the later end."""
    book = await GrantRegistry.load(database, hand.clock)
    grant, old, new = await new_grant(book), certificate(hand), certificate(hand)
    for issued in (old, new):
        await book.add_certificate(grant.id, issued, activate=True)
    book.record_use(grant.id, new.serial)
    refusing = Refusing(database, "UPDATE certificates")
    with pytest.raises(StoreError, match="last uses"):
        await book.flush_uses()

    refusing.stop()
    await book.flush_uses()
    stored = (await GrantRegistry.load(database, hand.clock)).get(grant.id).certificates[old.serial]
    assert stored.accepted_until_us == hand.clock.now_us() + SUPERSEDED_US < old.not_after_us


async def test_a_use_never_undoes_a_revocation(database: Database) -> None:
    """Recording a use of a revoked grant leaves it revoked."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)
    await book.revoke(grant.id)
    book.record_use(grant.id)

    assert book.get(grant.id).status is GrantStatus.REVOKED


@pytest.mark.parametrize("reason", ["a\nb", "\x1b[2J", "x" * 501])
async def test_a_reason_is_one_printable_line(database: Database, reason: str) -> None:
    """A reason that would spoil a terminal or a log is refused, and nothing is revoked."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)

    with pytest.raises(InputError, match=r"^reason: "):
        await book.revoke(grant.id, reason)

    assert book.get(grant.id).status is GrantStatus.PENDING


@pytest.mark.parametrize(("column", "value"), [("scope", "{}"), ("status", "odd")])
async def test_an_invalid_grant_in_the_database_is_named(database: Database, column: str, value: str) -> None:
    """A row that this program did not write stops the start with the grant's id, not with a trace."""
    book = await GrantRegistry.load(database)
    grant = await new_grant(book)
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
    book = await GrantRegistry.load(database)
    grant, issued = await new_grant(book), PKI.client().issued
    await book.add_certificate(grant.id, issued, activate=True)

    with pytest.raises(StoreError, match="cannot be stored"):
        await book.add_certificate(grant.id, issued, activate=True)

    async with database.read() as connection:
        assert len((await connection.execute(select(schema.certificates))).all()) == 1
