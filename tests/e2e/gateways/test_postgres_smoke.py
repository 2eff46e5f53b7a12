"""Two gateways on PostgreSQL exchange rows; `make check` runs every test of a store on it."""

import pytest

from tests.e2e.gateways.test_exchange import ask, ids, tasks
from tests.support.databases import new_postgres_url
from tests.support.gateway_pair import NewStore, Running, enroll


@pytest.fixture
def store(postgres_directory: str) -> NewStore:
    """Every gateway of this file gets a PostgreSQL database."""
    return lambda: new_postgres_url(postgres_directory)


async def test_rows_cross_between_gateways_on_postgresql(home: Running, work: Running) -> None:
    """Enrollment, scope, paging and the cache hold on the other database too."""
    await enroll(home, work)

    first = await ask(home, list=tasks())
    rest = await ask(home, list=tasks(page_token=first.next_page_token))
    again = await ask(home, list=tasks())

    assert ids(first) + ids(rest) == [f"task-{n}" for n in (10, 8, 6, 4, 2, 0)]
    assert {row.cached for row in again.rows} == {True}
