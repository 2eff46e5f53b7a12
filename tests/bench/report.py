"""Renders a run as tables and as JSON."""

import importlib.metadata
import os
import platform
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.bench.goals import Goal, goals
from tests.bench.many_peers import FIGURES
from tests.bench.run import Run
from tests.bench.samples import Samples, Spread
from tests.bench.sessions import BARE_SLOW
from tests.bench.shared_calls import CALLERS
from tests.bench.status import PYTHON

_PACKAGES: Final = (
    "grpcio",
    "protobuf",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-grpc",
    "cachetools",
)
_RESULT: Final = {True: "[green]met[/]", False: "[red]missed[/]", None: "[dim]not measured[/]"}


def machine() -> dict[str, Any]:
    """Return a description of the machine and the package versions."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def show(run: Run, console: Console) -> None:
    """Print all tables."""
    about = machine()
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), highlight=False, soft_wrap=True)
    plan = run.plan
    console.print(
        f"{plan.rounds} rounds of {plan.calls.live} live or {plan.calls.quick} quick calls a variant, "
        f"in {run.took_s:.0f} s",
        highlight=False,
    )
    for table in (_calls(run), _parts(run), _sizes(run), _sessions(run), _many_peers(run), _goals(run)):
        console.print(table)


def as_json(run: Run) -> dict[str, Any]:
    """Return all figures, in microseconds unless the name says otherwise."""
    rows = {name: _figures(samples, run[variant.base]) for name, (variant, samples) in run.rows.items()}
    sizes = [*run.growth.by_entries, *run.growth.by_peers]
    return {
        "machine": machine(),
        "rounds": run.plan.rounds,
        "took_s": round(run.took_s, 1),
        "variants": rows,
        "closed_breaker": {"policy_us": run.breaker.policy.wall_us, "member_us": run.breaker.interceptor.wall_us},
        "sharing": vars(run.shared_calls),
        "growth": [
            {"peers": s.peers, "entries": s.entries, "fill_us": s.fill_us, "hit_us": s.samples.wall_us} for s in sizes
        ],
        "sessions": {name: _figures(row, run.sessions.rows[BARE_SLOW]) for name, row in run.sessions.rows.items()},
        "crowd": {"peers": run.many_peers.peers, "rounds": run.many_peers.rounds},
        "status": {name: _figures(row, run.status.rows[PYTHON]) for name, row in run.status.rows.items()},
        "goals": [vars(goal) for goal in goals(run)],
    }


def _figures(samples: Samples, base: Samples) -> dict[str, Any]:
    return {
        "p50_us": samples.p50_us,
        "best_us": samples.best_us,
        "cpu_us": median(samples.cpu_us),
        "ratio": samples.ratio(base)._asdict(),
        "best_ratio": samples.best_ratio(base),
        "cpu_ratio": samples.cpu_ratio(base)._asdict(),
    }


def _calls(run: Run) -> Table:
    table = Table(title="Calls: x bare is within rounds, median (quartiles); x bare best is best round by best round")
    for heading in ("", "p50 us", "best us", "x bare", "x bare best", "CPU us", "CPU x bare"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, (variant, samples) in sorted(run.rows.items()):
        base = run[variant.base]
        table.add_row(
            name,
            f"{samples.p50_us:.0f}",
            f"{samples.best_us:.0f}",
            _times(samples.ratio(base)),
            _factor(samples.best_ratio(base)),
            f"{median(samples.cpu_us):.0f}",
            _times(samples.cpu_ratio(base)),
        )
    return table


def _parts(run: Run) -> Table:
    table = Table(title="Parts")
    table.add_column("")
    table.add_column("median", justify="right")
    table.add_column("best", justify="right")
    table.add_column("spread", justify="right")
    for name, samples in (
        ("closed breaker, net: the policy", run.breaker.policy),
        ("closed breaker, net: the interceptor", run.breaker.interceptor),
    ):
        spread = Spread.of(samples.wall_us)
        table.add_row(name, f"{spread.middle:.2f} us", f"{samples.best_us:.2f} us", _range(spread, "us"))
    shared_calls = run.shared_calls
    for name, values in (
        ("one bare call", shared_calls.one_ms),
        (f"{CALLERS} bare calls at once, {_seen(shared_calls.bare_calls)} at the server", shared_calls.bare_ms),
        (f"{CALLERS} through the chain, {_seen(shared_calls.chain_calls)} at the server", shared_calls.chain_ms),
    ):
        spread = Spread.of(values)
        table.add_row(name, f"{spread.middle:.1f} ms", f"{min(values):.1f} ms", _range(spread, "ms"))
    base = run.status.rows[PYTHON]
    for name, row in run.status.rows.items():
        spread = Spread.of([us / 1e3 for us in row.wall_us])
        label = f"{name}, {_times(row.ratio(base))} x {PYTHON}" if row is not base else name
        table.add_row(label, f"{spread.middle:.0f} ms", f"{row.best_us / 1e3:.0f} ms", _range(spread, "ms"))
    return table


def _sizes(run: Run) -> Table:
    table = Table(title="Growth: a hit through the chain (no span, no call object), and the insertion of an entry")
    for heading in ("peers", "entries each", "hit p50 us", "best us", "x smallest", "insert CPU us"):
        table.add_column(heading, justify="right")
    for sizes in (run.growth.by_entries, run.growth.by_peers):
        for size in sizes:
            samples = size.samples
            table.add_row(
                f"{size.peers:,}",
                f"{size.entries:,}",
                f"{samples.p50_us:.1f}",
                f"{samples.best_us:.1f}",
                _times(samples.ratio(sizes[0].samples)),
                f"{size.fill_us:.1f}",
            )
    return table


def _sessions(run: Run) -> Table:
    rows = run.sessions.rows
    table = Table(title=f"Sessions, in {len(rows[BARE_SLOW].wall_us)} rounds of {run.plan.session_calls} calls")
    for heading in ("", "p50 ms", "best ms", f"x {BARE_SLOW}", "CPU ms"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in rows.items():
        times, cpu_ms = _times(row.ratio(rows[BARE_SLOW])), median(row.cpu_us) / 1e3
        table.add_row(name, f"{row.p50_us / 1e3:.2f}", f"{row.best_us / 1e3:.2f}", times, f"{cpu_ms:.2f}")
    return table


def _many_peers(run: Run) -> Table:
    many_peers = run.many_peers
    table = Table(title=f"{many_peers.peers} peers, half of them dead; each round in a new process")
    for heading in ("", "median", "least", "most"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, what in FIGURES.items():
        values = [each[name] for each in many_peers.rounds]
        table.add_row(what, *(f"{value:,.0f}" for value in (many_peers.middle(name), min(values), max(values))))
    return table


def _goals(run: Run) -> Table:
    table = Table(title="Goals: ratios and differences by the median over rounds, times by the best round")
    for heading in ("goal", "limit", "measured", "", "off by"):
        table.add_column(heading)
    for goal in goals(run):
        table.add_row(goal.what, goal.limit, goal.measured, _RESULT[goal.met], _off(goal))
    return table


def _off(goal: Goal) -> str:
    return goal.off_by if goal.met is False else ""


def _times(spread: Spread) -> str:
    if spread.middle < 0.5:
        fast = spread.inverse()
        return f"1/{fast.middle:.1f} ({fast.low:.1f}..{fast.high:.1f})"
    return f"{spread.middle:.2f} ({spread.low:.2f}..{spread.high:.2f})"


def _factor(value: float) -> str:
    return f"1/{1 / value:.1f}" if value < 0.5 else f"{value:.2f}"


def _range(spread: Spread, unit: str) -> str:
    return f"{spread.low:.2f}..{spread.high:.2f} {unit}"


def _seen(calls: list[int]) -> str:
    return f"{min(calls)}" if min(calls) == max(calls) else f"{min(calls)} to {max(calls)}"
