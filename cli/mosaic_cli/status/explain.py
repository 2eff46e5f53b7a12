"""`mosaic federation status --explain PEER`: the way to a peer link by link, and the first broken one with its cure."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from federation.config import GatewayConfig
    from federation.explain.checks import CheckResult
    from federation.store.peers import PeerRecord
    from federation.v1 import admin_pb2 as pb

__all__ = ["explain"]

BROKEN: Final = 3
LOOKS: Final = {"ok": ("green", "✓"), "broken": ("red", "✗"), "not_reached": ("", "·")}
NAMES: Final = {"certificate": "own cert"}
NOT_RUNNING: Final = "gateway not running"


class _Told(NamedTuple):
    """What only the running gateway knows of a peer, or why it says nothing."""

    running: bool
    reply: "pb.StatusResponse | None" = None
    silence: str = ""


def explain(
    directory: Path, peer: str, *, user: str = "", resource: str = "", timeout_s: float = 2.0, as_json: bool = False
) -> int:
    """Walk to a peer and print each link; return 0 where all hold and 3 where one is broken.

    Raises `GatewayUnavailableError` where the gateway's directory cannot be read.
    """
    from federation.explain.checks import first_broken
    from federation.explain.peer_lookup import choose, read
    from federation.explain.run import run_checks
    from mosaic_cli.output import console as render
    from mosaic_cli.output import shapes

    config, records = read(directory)
    record = choose(records, peer, user)
    told = _ask_gateway(config, record, timeout_s)
    if not as_json:
        render.facts((("peer", f"{record.name} for {record.user}"), ("endpoint", record.endpoint)))
        render.out("")
    steps = []
    for step in run_checks(record, resource=resource, timeout_s=timeout_s, serving=told.running):
        steps.append(step)
        if not as_json:
            _show(step, first=first_broken(steps) is step)
    broken = first_broken(steps)
    notes = _notes(record, told.reply, broken)
    if as_json:
        render.out(shapes.dump(_shape(record, steps, told, notes)))
    else:
        _sum_up(broken, told, notes)
    return BROKEN if broken else 0


def _ask_gateway(config: "GatewayConfig", record: "PeerRecord", timeout_s: float) -> _Told:
    from federation.admin.client import connect, is_serving
    from federation.errors import FederationError
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output import errors as words

    running = True
    try:
        running = is_serving(config)
        if not running:
            return _Told(running, silence=NOT_RUNNING)
        with connect(config.directory) as admin:
            reply = admin.Status(pb.StatusRequest(peer=record.name, user=record.user), timeout=timeout_s)
    except FederationError as e:
        return _Told(running, silence=words.explain(e))
    if not reply.peers:
        return _Told(running, silence="the running gateway does not know this peer yet")
    return _Told(running, reply)


def _notes(record: "PeerRecord", seen: "pb.StatusResponse | None", broken: "CheckResult | None") -> list[str]:
    """Return what else the operator should know, as sentences."""
    from federation.errors import Action, Remedy
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output.errors import command
    from mosaic_cli.output.layout import plural

    if seen is None:
        return []
    peer, notes = seen.peers[0], []
    if broken is None and peer.circuit.state == pb.CIRCUIT_STATE_OPEN:
        reset = command(Remedy(action=Action.RESET_CIRCUIT, peer=record.name, user=record.user))
        notes.append(
            f"every link holds, and the circuit is still open: it closes by itself at its retry, or by `{reset}`"
        )
    if peer.renewal.consecutive_failures:
        times, why = plural(peer.renewal.consecutive_failures, "time"), peer.renewal.last_failure.message
        notes.append(f"renewing the own certificate failed {times} in a row: {why}")
    return notes


def _shape(record: "PeerRecord", steps: "list[CheckResult]", told: _Told, notes: list[str]) -> dict[str, Any]:
    from federation.explain.checks import first_broken
    from mosaic_cli.output import shapes
    from mosaic_cli.output.errors import advised

    broken = first_broken(steps)
    fault = broken.fault if broken else None
    seen = told.reply
    live = shapes.peer(seen.peers[0], seen.gateway.now) if seen else {}
    return {
        "peer": record.name,
        "user": record.user,
        "endpoint": record.endpoint,
        "steps": [
            {
                "name": step.link.value,
                "state": step.state.value,
                "took_ms": None if step.took_ms is None else round(step.took_ms, 3),
                "detail": step.detail or None,
            }
            for step in steps
        ],
        "broken": {"step": broken.link.value, "cause": fault.cause, "cure": advised(fault.cure, fault.remedy)}
        if broken and fault
        else None,
        "gateway": {"running": told.running, "detail": told.silence or None},
        "circuit": live.get("circuit"),
        "watch": live.get("watch"),
        "last_failure": live.get("last_failure"),
        "notes": notes,
    }


def _show(step: "CheckResult", *, first: bool) -> None:
    """Print one line, as soon as the step is known: a silent network lets the next one wait."""
    from rich.text import Text

    from mosaic_cli.output import console as render

    name, state = NAMES.get(step.link.value, step.link.value), step.state.value
    took = "-" if step.took_ms is None else f"{step.took_ms:.1f} ms"
    colour, symbol = LOOKS[state]
    head = Text(f"{name:<9}").append(f"{symbol} {state.replace('_', ' '):<11}", colour)
    head.append(f"{took:>9}", "not bold")
    render.facts(((head, "the first broken link" if first else step.detail),))
    render.flush()


def _sum_up(broken: "CheckResult | None", told: _Told, notes: list[str]) -> None:
    from mosaic_cli.output import console as render
    from mosaic_cli.output.errors import advised

    if broken is None or broken.fault is None:
        pairs = [("result", "every link holds")]
    else:
        name = NAMES.get(broken.link.value, broken.link.value)
        cure = advised(broken.fault.cure, broken.fault.remedy)
        pairs = [("broken", name), ("cause", broken.fault.cause), ("cure", cure)]
    unknown = [("gateway", f"{told.silence}; its circuit and watch are not known")]
    pairs += _live(told.reply) if told.reply else unknown
    render.out("")
    render.facts(pairs)
    for note in notes:
        render.say(f"note: {note}")


def _live(reply: "pb.StatusResponse") -> list[tuple[str, str]]:
    """Return what only the running gateway knows."""
    from mosaic_cli.output.times import seconds
    from mosaic_cli.status.peers import facts

    told = facts(reply.peers[0], seconds(reply.gateway.now))
    return [(name, told[name]) for name in ("circuit", "watch", "last failure") if name in told]
