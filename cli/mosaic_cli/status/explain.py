"""`mosaic federation status --explain PEER`: test each link to a peer, and name the first broken one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from federation.config import GatewayConfig
    from federation.explain.checks import CheckResult
    from federation.store.peers import PeerRecord
    from federation.v1 import admin_pb2 as pb

BROKEN: Final = 3
LOOKS: Final = {"ok": ("green", "✓"), "broken": ("red", "✗"), "not_reached": ("", "·")}
NAMES: Final = {"certificate": "own cert"}


class _LiveStatus(NamedTuple):
    """The running gateway's status of a peer, or the problem that prevented reading it."""

    reply: "pb.StatusResponse | None" = None
    problem: str = ""
    running: bool = True


def explain_peer(
    directory: Path, peer: str, *, user: str = "", resource: str = "", timeout_s: float = 2.0, as_json: bool = False
) -> int:
    """Test and print each link to a peer. Returns 0 if all links work, and 3 if one is broken.

    Raises `GatewayUnavailableError` if the gateway's directory cannot be read.
    """
    from federation.explain.checks import first_broken
    from federation.explain.peer_lookup import choose, read
    from federation.explain.run import run_checks
    from mosaic_cli.output import console, shapes

    config, records = read(directory)
    record = choose(records, peer, user)
    live = _ask_gateway(config, record, timeout_s)
    if not as_json:
        console.facts((("peer", f"{record.name} for {record.user}"), ("endpoint", record.endpoint)))
        console.write("")
    steps = []
    for step in run_checks(record, resource=resource, timeout_s=timeout_s, serving=live.running):
        steps.append(step)
        if not as_json:
            _show(step, first=first_broken(steps) is step)
    broken = first_broken(steps)
    notes = _notes(record, live.reply, broken)
    if as_json:
        console.write(shapes.dump(_shape(record, steps, live, notes)))
    else:
        _sum_up(broken, live, notes)
    return BROKEN if broken else 0


def _ask_gateway(config: "GatewayConfig", record: "PeerRecord", timeout_s: float) -> _LiveStatus:
    from federation.admin.client import connect, is_serving
    from federation.errors import FederationError
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output import errors

    try:
        if not is_serving(config):
            return _LiveStatus(problem="gateway not running", running=False)
        with connect(config.directory) as admin:
            reply = admin.Status(pb.StatusRequest(peer=record.name, user=record.user), timeout=timeout_s)
    except FederationError as e:
        return _LiveStatus(problem=errors.explain(e))
    if not reply.peers:
        return _LiveStatus(problem="the running gateway does not know this peer yet")
    return _LiveStatus(reply)


def _notes(record: "PeerRecord", reply: "pb.StatusResponse | None", broken: "CheckResult | None") -> list[str]:
    """Return further information for the operator, as sentences."""
    from federation.errors import Action, Remedy
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.output.errors import command
    from mosaic_cli.output.layout import plural

    if reply is None:
        return []
    peer, notes = reply.peers[0], []
    if broken is None and peer.circuit.state == pb.CIRCUIT_STATE_OPEN:
        reset = command(Remedy(action=Action.RESET_CIRCUIT, peer=record.name, user=record.user))
        notes.append(
            f"no link is broken, but the circuit is still open: it closes after a successful probe, or by `{reset}`"
        )
    if peer.renewal.consecutive_failures:
        times, why = plural(peer.renewal.consecutive_failures, "time"), peer.renewal.last_failure.message
        notes.append(f"renewing this gateway's certificate failed {times} in a row: {why}")
    return notes


def _shape(record: "PeerRecord", steps: "list[CheckResult]", live: _LiveStatus, notes: list[str]) -> dict[str, Any]:
    from federation.explain.checks import first_broken
    from mosaic_cli.output import shapes
    from mosaic_cli.output.errors import advised

    broken = first_broken(steps)
    fault = broken.fault if broken else None
    reply = live.reply
    peer = shapes.peer(reply.peers[0], reply.gateway.now) if reply else {}
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
        "gateway": {"running": live.running, "detail": live.problem or None},
        "circuit": peer.get("circuit"),
        "watch": peer.get("watch"),
        "last_failure": peer.get("last_failure"),
        "notes": notes,
    }


def _show(step: "CheckResult", *, first: bool) -> None:
    """Print one line for a step as soon as it is known, since the next step may wait for its time limit."""
    from rich.text import Text

    from mosaic_cli.output import console

    name, state = NAMES.get(step.link.value, step.link.value), step.state.value
    took = "-" if step.took_ms is None else f"{step.took_ms:.1f} ms"
    colour, symbol = LOOKS[state]
    head = Text(f"{name:<9}").append(f"{symbol} {state.replace('_', ' '):<11}", colour)
    head.append(f"{took:>9}", "not bold")
    console.facts(((head, "the first broken link" if first else step.detail),))
    console.flush()


def _sum_up(broken: "CheckResult | None", live: _LiveStatus, notes: list[str]) -> None:
    from mosaic_cli.output import console
    from mosaic_cli.output.errors import advised
    from mosaic_cli.output.times import seconds
    from mosaic_cli.status.peers import facts

    if broken is None or broken.fault is None:
        pairs = [("result", "no link is broken")]
    else:
        name = NAMES.get(broken.link.value, broken.link.value)
        cure = advised(broken.fault.cure, broken.fault.remedy)
        pairs = [("broken", name), ("cause", broken.fault.cause), ("cure", cure)]
    if live.reply is None:
        pairs.append(("gateway", f"{live.problem}; circuit and watch are unknown"))
    else:
        known = facts(live.reply.peers[0], seconds(live.reply.gateway.now))
        pairs += [(name, known[name]) for name in ("circuit", "watch", "last failure") if name in known]
    console.write("")
    console.facts(pairs)
    for note in notes:
        console.message(f"note: {note}")
