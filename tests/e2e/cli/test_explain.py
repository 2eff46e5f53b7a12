"""`mosaic federation status --explain` against real gateways: output, JSON and exit code."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.bootstrap import init_gateway
from federation.client.peers.store import PeerRepository
from federation.config import GatewayConfig
from federation.explain.checks import first_broken
from federation.explain.peer_lookup import read
from federation.explain.run import run_checks
from federation.gateway import Gateway
from federation.store.peers import PeerRecord
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from mosaic_cli.main import main
from mosaic_cli.status import command as status
from tests.support.cli_runner import CommandResult
from tests.support.gateway_pair import SCOPE, Running, enroll
from tests.support.pki import Pki
from tests.support.schemas import validator

SCHEMA = validator("status-explain")


Explain = Callable[..., Awaitable[CommandResult]]


@pytest.fixture
def explain(home: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Explain:
    """Run the command in a thread, beside the gateways."""
    monkeypatch.setenv("COLUMNS", "200")

    async def explain(*more: str, peer: str = "work.example") -> CommandResult:
        capsys.readouterr()
        words = ["federation", "status", "--gateway", str(home.gateway.config.directory), "--explain", peer, *more]
        code = await asyncio.to_thread(main, words)
        return CommandResult(code, *capsys.readouterr())

    return explain


async def stored(home: Running) -> PeerRecord:
    """The one enrollment in the gateway's store."""
    _, (record,) = await asyncio.to_thread(read, home.gateway.config.directory)
    return record


def states(shape: dict[str, Any]) -> str:
    """The first letter of each step's state: o, b or n."""
    return "".join(step["state"][0] for step in shape["steps"])


async def test_a_working_path_is_shown_step_by_step(home: Running, work: Running, explain: Explain) -> None:
    """Six lines with name, symbol and time, and the gateway's state; no row; exit code 0."""
    grant = await enroll(home, work)

    ran = await explain()

    lines = ran.out.split("\n\n")[1].splitlines()
    assert ran.code == 0
    assert [line.split()[0] for line in lines] == ["dns", "tcp", "tls", "own", "grant", "verb"]
    assert all("✓ ok" in line and " ms " in line for line in lines)
    assert "peer      work.example for ada" in ran.out
    assert f"{grant} opens tasks, notes; at most 5 rows a query" in ran.out
    assert "no link is broken" in ran.out
    assert "circuit closed watch armed since" in ran.squeezed
    assert "task number" not in ran.out
    assert "gateway not running" not in ran.out


async def test_the_json_has_a_stable_shape(home: Running, work: Running, explain: Explain) -> None:
    """Scripts find the same keys in success and in failure."""
    await enroll(home, work)

    good = await explain("--json")
    bad = await explain("--json", "--resource", "credentials")

    fine, broken = good.json, bad.json
    for shape in (fine, broken):
        SCHEMA.validate(shape)
    assert (good.code, bad.code) == (0, 3)
    assert (fine["peer"], fine["user"], fine["endpoint"]) == ("work.example", "ada", work.gateway.federation_address)
    assert [step["name"] for step in fine["steps"]] == ["dns", "tcp", "tls", "certificate", "grant", "verb"]
    assert (fine["broken"], fine["circuit"]["state"], fine["gateway"]) == (
        None,
        "closed",
        {"running": True, "detail": None},
    )
    assert broken["broken"]["step"] == "verb"
    assert states(broken) == "ooooob"


async def test_excluded_and_unnamed_resources_are_distinguished(home: Running, work: Running, explain: Explain) -> None:
    """Both fail at the verb; the next step names the allowed resources."""
    grant = await enroll(home, work)

    excluded, unnamed = await explain("--resource", "credentials"), await explain("--resource", "note")

    assert (excluded.code, unnamed.code) == (3, 3)
    assert f"the grant {grant} excludes the resource credentials" in excluded.out
    assert "does not name the resource note; did you mean notes?" in unnamed.out
    assert "request a resource that it opens (tasks, notes)" in excluded.out


async def test_a_closed_port_is_shown_with_a_next_step(home: Running, work: Running, explain: Explain) -> None:
    """The failed step has a text and a symbol, later steps are not reached, and the next step says whom to ask."""
    await enroll(home, work)
    await work.stop()

    ran = await explain()

    assert ran.code == 3
    assert "tcp      ✗ broken" in ran.out
    assert ran.out.count("· not reached") == 3
    assert "own cert ✓ ok" in ran.out
    assert "broken tcp cause 127.0.0.1:" in ran.squeezed
    assert "cure ask the operator of work.example whether its gateway listens on port" in ran.squeezed
    assert "and whether it runs: `mosaic gateway serve` there" in ran.squeezed


async def test_a_revoked_grant_is_shown(home: Running, work: Running, explain: Explain) -> None:
    """The gateway learns of the revocation and refuses; the grant step fails, also while the gateway is stopped."""
    grant = await enroll(home, work)
    async for _ in work.admin.RevokeGrant(pb.RevokeGrantRequest(id=grant, reason="project over")):
        pass

    running = await explain()
    await home.stop()
    stopped = await explain("--json")

    shape = stopped.json
    assert (running.code, stopped.code) == (3, 3)
    assert "broken grant" in running.squeezed
    assert f"revoked the grant {grant}" in running.out
    assert "mosaic federation peer add --user ada TOKEN" in running.out
    assert (shape["broken"]["step"], states(shape)) == ("grant", "oooobn")


async def test_an_unconfirmed_grant_is_shown(home: Running, work: Running, explain: Explain) -> None:
    """The peer tells the reason only to its operator; the next step is the command that shows it there."""
    created = await work.admin.CreateGrant(
        pb.CreateGrantRequest(peer=home.name, subject="ada", scope=json.dumps(SCOPE))
    )
    request = pb.CreateEnrollmentTokenRequest(grant_id=created.grant.id, confirm=True)
    token = (await work.admin.CreateEnrollmentToken(request)).token
    await home.admin.AddPeer(pb.AddPeerRequest(token=token, user="ada"))

    shape = (await explain("--json")).json

    assert (shape["broken"]["step"], states(shape)) == ("grant", "oooobn")
    assert f"mosaic federation grant show {created.grant.id}" in shape["broken"]["cure"]


async def test_a_rate_limit_is_shown_with_the_wait(home: Running, work: Running, explain: Explain) -> None:
    """With one call per minute, the first run meets the limit at the verb, the next run before the grant's check."""
    await enroll(home, work, scope={**SCOPE, "rate_limit_per_minute": 1})

    first, second = [(await explain("--json")).json for _ in range(2)]

    assert (first["broken"]["step"], states(first)) == ("verb", "ooooob")
    assert (second["broken"]["step"], states(second)) == ("verb", "oooonb")
    assert "limits the calls" in second["broken"]["cause"]
    wait = float(second["broken"]["cure"].split()[1])
    assert 0 < wait <= 61


async def test_an_expired_own_certificate_is_shown(home: Running, work: Running, explain: Explain) -> None:
    """With a stopped gateway the handshake fails; the certificate is named as the cause, with the renewal."""
    grant = await enroll(home, work)
    record = await stored(home)
    await home.stop()
    pki = Pki.of(work.gateway._certificate.authority)
    old = pki.client(grant, "ada", begins_in=timedelta(hours=-25), ends_in=timedelta(hours=-1))
    expired = replace(record, certificate_pem=old.certificate_pem, key_pem=old.key_pem)
    await PeerRepository(home.gateway.config).renew(expired, replaces=record.certificate_pem)

    ran = await explain("--json")

    shape = ran.json
    assert (ran.code, shape["broken"]["step"], states(shape)) == (3, "certificate", "ooobnn")
    assert shape["broken"]["cure"].endswith("once you start it: mosaic gateway serve")


async def test_a_wrong_authority_is_shown_in_both_directions(home: Running, work: Running) -> None:
    """A gateway refuses an unknown authority's certificate, and an unknown authority's gateway is refused."""
    grant = await enroll(home, work)
    record, stranger = await stored(home), Pki()
    leaf = stranger.client(grant, "ada")
    unknown_there = replace(record, certificate_pem=leaf.certificate_pem, key_pem=leaf.key_pem)
    unknown_here = replace(record, trust_bundle=stranger.trust_bundle)

    found = [
        first_broken(await asyncio.to_thread(lambda it=it: list(run_checks(it))))
        for it in (unknown_there, unknown_here)
    ]

    assert [step.link.value for step in found if step] == ["tls", "tls"]
    assert [("refuses" in step.detail, "unknown CA" in step.detail) for step in found if step] == [
        (True, True),
        (False, True),
    ]


async def test_explain_works_without_a_running_gateway(home: Running, work: Running, explain: Explain) -> None:
    """Every step but the circuit and the watch is checked without the gateway."""
    await enroll(home, work)
    await home.stop()

    ran, shape = await explain(), (await explain("--json")).json

    SCHEMA.validate(shape)
    assert ran.code == 0
    assert "gateway not running" in ran.out
    assert (shape["gateway"], shape["circuit"], shape["watch"]) == (
        {"running": False, "detail": "gateway not running"},
        None,
        None,
    )
    assert states(shape) == "oooooo"


async def test_a_suspended_gateway_is_distinguished_from_a_stopped_one(
    home: Running, work: Running, explain: Explain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Explain says that the gateway runs and does not answer; `status` ends in time, with exit code 4."""
    monkeypatch.setattr(status, "PATIENCE_S", 0.3)
    await enroll(home, work)
    await home.stop()
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(home.gateway.config.socket_path))
        hanging.listen()
        ran, shape = await explain("--timeout", "0.5"), (await explain("--timeout", "0.5", "--json")).json
        plain = await asyncio.to_thread(main, ["federation", "status", "-g", str(home.gateway.config.directory)])

    SCHEMA.validate(shape)
    assert (ran.code, plain) == (0, 4)
    assert "gateway the gateway is running but does not answer in time" in ran.squeezed
    assert shape["gateway"]["running"] is True
    assert shape["gateway"]["detail"].startswith("the gateway is running but does not answer in time")


@pytest.mark.parametrize("more", [("--resource", "tasks"), ("--timeout", "1")], ids=["resource", "timeout"])
async def test_options_of_explain_are_refused_without_it(
    home: Running, capsys: pytest.CaptureFixture[str], more: tuple[str, str]
) -> None:
    """An option without effect is an error, and so is an empty peer name of an unset variable."""
    directory = str(home.gateway.config.directory)

    assert await asyncio.to_thread(main, ["federation", "status", "-g", directory, *more]) == 2
    assert f"{more[0]}: needs --explain" in capsys.readouterr().err
    assert await asyncio.to_thread(main, ["federation", "status", "-g", directory, "--explain", ""]) == 1


async def test_an_open_circuit_of_a_working_path_is_shown(home: Running, work: Running, explain: Explain) -> None:
    """If the peer works again and the circuit is open: exit code 0, and the command that closes the circuit."""
    await enroll(home, work)
    directory, address = work.gateway.config.directory, work.gateway.federation_address
    settings = directory / "gateway.toml"
    settings.write_text(settings.read_text().replace('listen = "127.0.0.1:0"', f'listen = "{address}"'))
    await work.stop()
    stub = home.gateway.federation.stub("work.example", "ada")
    for number in range(5):
        with pytest.raises(grpc.RpcError):
            await stub.List(federation_pb2.ListRequest(resource="tasks", page_size=number + 1))
    offline = await explain("--json")
    async with Gateway.open(directory) as back:
        await back.start()
        ran = await explain()

    assert (offline.json["circuit"]["state"], offline.json["notes"]) == ("open", [])
    assert offline.json["last_failure"]["reason"] == "PEER_UNREACHABLE"
    SCHEMA.validate(offline.json)
    assert ran.code == 0
    assert "circuit open since " in ran.squeezed
    assert " after 5 failures in a row; next probe in " in ran.squeezed
    assert "mosaic federation peer reset work.example --user ada" in ran.err


async def test_the_user_is_required_with_two_enrollments(home: Running, work: Running, explain: Explain) -> None:
    """With two enrollments at one peer the user must be given."""
    await enroll(home, work)
    await enroll(home, work, user="bob", subject="bob")

    neither, bob, eve = await explain(), await explain("--user", "bob", "--json"), await explain("--user", "bobb")

    assert (neither.code, bob.code, eve.code) == (1, 0, 1)
    assert "ada, bob are enrolled at work.example; say which: --user USER" in neither.err
    assert bob.json["user"] == "bob"
    assert "did you mean bob?" in eve.err


async def test_an_unknown_peer_gives_suggestions(home: Running, work: Running, explain: Explain) -> None:
    """A misspelled peer name is not shown as a failed step."""
    await enroll(home, work)

    ran = await explain(peer="wrk.example")

    assert (ran.code, ran.out) == (1, "")
    assert "no peer 'wrk.example'; did you mean work.example?" in ran.err


async def test_the_calls_are_in_the_peers_audit(home: Running, work: Running, explain: Explain) -> None:
    """The peer records a capabilities call and a list, as for any caller."""
    grant = await enroll(home, work)
    before = await _reads(work, grant)
    await explain()

    after: list[str] = []
    for _ in range(100):
        after = await _reads(work, grant)
        if len(after) >= len(before) + 2:
            break
        await asyncio.sleep(0.02)
    assert sorted(after[: len(after) - len(before)]) == ["capabilities", "list"]


async def _reads(work: Running, grant: str) -> list[str]:
    reply = await work.admin.ListAuditEvents(pb.ListAuditEventsRequest(grant_id=grant))
    return [event.verb for event in reply.events if event.verb in {"capabilities", "list"}]


@pytest.mark.parametrize("missing", ["gateway.toml", "gateway.db", "seal.key"])
async def test_an_unreadable_store_is_an_error(
    missing: str, short_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 4, the error has the reason, and no empty database is created."""
    directory, free = short_path / "alone", "127.0.0.1:0"
    await init_gateway(GatewayConfig(directory=directory, name="alone.example", listen=free, enroll=free))
    (directory / missing).unlink()

    code = await asyncio.to_thread(main, ["federation", "status", "-g", str(directory), "--explain", "work.example"])

    assert code == 4
    assert "error: cannot read the peers of the gateway: " in capsys.readouterr().err
    assert not (directory / missing).exists()


async def test_an_invalid_time_limit_is_a_usage_error(explain: Explain) -> None:
    """The limit of a step must be positive and finite."""
    assert [(await explain("--timeout", value)).code for value in ("0", "-1", "1e9", "soon")] == [2, 2, 2, 2]
