from typing import Any

import pytest

from federation.errors import InputError
from federation.store.audit import AuditEvent, AuditFilter, AuditStore
from federation.store.database import Database

pytestmark = pytest.mark.asyncio


def event(number: int, **changes: Any) -> AuditEvent:
    """An event with every field said."""
    defaults = {
        "at_us": number,
        "verb": "list",
        "outcome": "ok",
        "grant_id": "g",
        "peer": "home.example",
        "subject": "ada",
        "resource": "tasks",
        "query_hash": "a" * 64,
        "reason": "",
        "bytes_out": 2**40,
        "latency_ms": 1.5,
        "trace_id": "b" * 32,
        "source": "127.0.0.1",
        "count": 1,
    }
    return AuditEvent(**{**defaults, **changes})


def plain(found: AuditEvent) -> dict[str, Any]:
    """An event without its number."""
    return {name: getattr(found, name) for name in AuditEvent.__slots__ if name != "id"}


async def test_events_come_back_as_they_went_in_newest_first(database: Database):
    """Every field survives, and the order is that of writing, backwards."""
    store = AuditStore(database)
    written = [event(1), event(2, grant_id=None, outcome="denied", reason="GRANT_INVALID: unknown grant", count=7)]

    await store.insert_many(written)
    await store.insert_many([])
    page = await store.page(AuditFilter())

    assert [plain(found) for found in page.events] == [plain(found) for found in reversed(written)]
    assert page.events[0].id > page.events[1].id > 0
    assert page.next_page_token == ""


async def test_pages_give_every_event_once(database: Database):
    """Tokens lead through all events; events written meanwhile do not disturb them."""
    store, seen, token = AuditStore(database), [], ""
    await store.insert_many([event(number) for number in range(7)])

    while True:
        page = await store.page(AuditFilter(), 3, token)
        seen += [found.at_us for found in page.events]
        await store.insert_many([event(99)])
        if not (token := page.next_page_token):
            break

    assert seen == [6, 5, 4, 3, 2, 1, 0]


async def test_filters_narrow_together(database: Database):
    """Each filter is equality, `since` counts from its instant on, and the count follows the same filters."""
    store = AuditStore(database)
    await store.insert_many(
        [
            event(1),
            event(2, grant_id="h"),
            event(3, peer="other.example"),
            event(4, verb="get"),
            event(5, outcome="denied", count=4),
        ]
    )

    async def found(**wanted: Any) -> list[int]:
        return [e.at_us for e in (await store.page(AuditFilter(**wanted))).events]

    assert await found(grant_id="h") == [2]
    assert await found(peer="other.example") == [3]
    assert await found(verb="get") == [4]
    assert await found(outcome="denied") == [5]
    assert await found(since_us=4) == [5, 4]
    assert await found(grant_id="g", verb="list", outcome="ok", since_us=2) == [3]
    assert await found(grant_id="' OR 1=1 --") == []
    assert await store.count(AuditFilter()) == 8
    assert await store.count(AuditFilter(outcome="denied")) == 4
    assert await store.count(AuditFilter(verb="none")) == 0


async def test_odd_text_of_a_peer_never_holds_up_a_batch(database: Database):
    """NUL, control characters, lone surrogates and overlong text are made fit for the column, the rest stays."""
    store = AuditStore(database)

    await store.insert_many([event(1, resource="ta\0s\nks\ud800", reason="x" * 5_000, trace_id="c" * 99), event(2)])

    kept = (await store.page(AuditFilter())).events[1]
    assert kept.resource == "ta?s?ks?"
    assert (len(kept.reason), len(kept.trace_id)) == (256, 32)


@pytest.mark.parametrize(("size", "token"), [(0, ""), (1_001, ""), (5, "x"), (5, "-1"), (5, "9" * 30), (5, "\u0661")])
async def test_a_size_or_token_that_is_none_is_named(database: Database, size: int, token: str):
    """A wrong page size or token is an input error that names the field."""
    with pytest.raises(InputError, match=r"^page_(size|token): "):
        await AuditStore(database).page(AuditFilter(), size, token)
