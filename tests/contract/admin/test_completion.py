"""Names for a shell's completion, asked of real gateways."""

import asyncio

import click
import pytest
import typer

from federation.v1 import admin_pb2 as pb
from mosaic_cli import completion
from tests.support.gateway_pair import Running, enroll, fill


async def names(running: Running, kind: "pb.NameKind", prefix: str = "", user: str = "") -> dict[str, str]:
    """The names that a gateway suggests, with their descriptions."""
    request = pb.SuggestNamesRequest(kind=kind, prefix=prefix, user=user)
    reply = await running.admin.SuggestNames(request)
    assert [one.name for one in reply.names] == sorted(one.name for one in reply.names)
    return {one.name: one.about for one in reply.names}


async def test_each_kind_has_its_names(home_gateway: Running, work_gateway: Running) -> None:
    """Peers with their users, grants with state, peer and subject; users of the data; sources as the user has them."""
    home, work = home_gateway, work_gateway
    grant = await enroll(home, work)

    assert await names(work, pb.NAME_KIND_GRANT) == {grant: "active: home.example as ada"}
    assert await names(work, pb.NAME_KIND_GATEWAY) == {"home.example": ""}
    assert await names(home, pb.NAME_KIND_PEER) == {"work.example": "for ada"}
    assert list(await names(home, pb.NAME_KIND_USER)) == ["ada", "bob"]
    assert list(await names(home, pb.NAME_KIND_RESOURCE)) == ["api_keys", "credentials", "memory", "notes", "tasks"]
    assert list(await names(home, pb.NAME_KIND_SOURCE)) == ["all", "federated:work.example", "local"]
    assert list(await names(home, pb.NAME_KIND_SOURCE, user="bob")) == ["all", "local"]
    assert await names(home, pb.NAME_KIND_UNSPECIFIED) == {}
    assert await names(home, 99) == {}  # type: ignore[arg-type]


async def test_names_begin_as_typed_and_are_few(home_gateway: Running) -> None:
    """Only names with the prefix are returned, at most a hundred."""
    users = b"".join(b'{"kind": "user", "id": "u%04d"}\n' % number for number in range(150))
    await fill(home_gateway, users)

    assert list(await names(home_gateway, pb.NAME_KIND_USER, "u014")) == [f"u{number:04}" for number in range(140, 150)]
    assert len(await names(home_gateway, pb.NAME_KIND_USER, "u")) == 100
    assert await names(home_gateway, pb.NAME_KIND_USER, "nobody") == {}
    assert await names(home_gateway, pb.NAME_KIND_USER, "da") == {}


async def test_a_command_completes_the_sources_of_its_user(
    home_gateway: Running, work_gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `--user`, the shell offers what that user can read; without it, the sources of all users."""
    monkeypatch.setattr(completion, "ANSWER_S", 10.0)
    await enroll(home_gateway, work_gateway)
    context = typer.Context(click.Command("list"))

    async def offered(**given: str) -> list[str]:
        context.params = {"gateway": home_gateway.gateway.config.directory, **given}
        return [name for name, _ in await asyncio.to_thread(completion.sources, context, "")]

    assert await offered() == ["all", "federated:work.example", "local"]
    assert await offered(user="ada") == ["all", "federated:work.example", "local"]
    assert await offered(user="bob") == ["all", "local"]
