"""The performance goals of the project, and whether a run met them.

Ratios and differences are compared by their median over rounds, because both sides of a round run under the same load;
times by the best round, which is least affected by other load. Both figures are shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from tests.bench.run import Run
from tests.bench.samples import Samples
from tests.bench.sessions import BARE_SLOW, EIGHT, FIRST, LOCAL, OFFLINE, SILENT
from tests.bench.status import PYTHON
from tests.bench.variants import BARE, BARE_OTEL, BARE_SYNC

FLAT: Final = 1.5
"""The limit of growth that counts as constant: a random entry of a million is in no cache of the processor."""


@dataclass(frozen=True)
class Goal:
    """A goal and its result. `met` is `None` if this run does not measure it."""

    what: str
    limit: str
    measured: str
    met: bool | None
    off_by: str = ""


def goals(run: Run) -> list[Goal]:
    """Return every goal, in a fixed order."""
    measured = (_live, _hits, _circuit, _growth, _sharing, _sessions, _status)
    return [*(goal for part in measured for goal in part(run)), *_elsewhere()]


def _live(run: Run) -> Iterator[Goal]:
    for span, base, limit in (("on", BARE_OTEL, 1.0), ("on", BARE, 1.25), ("off", BARE, 1.10)):
        yield _at_most(f"aio chain live, span {span}, against {base}", run[f"aio chain, span {span}"], run[base], limit)


def _hits(run: Run) -> Iterator[Goal]:
    for face, base, span, factor, micros in (
        ("aio", BARE, "on", 18, 60),
        ("aio", BARE, "off", 50, 20),
        ("sync", BARE_SYNC, "on", 12, None),
        ("sync", BARE_SYNC, "off", 45, None),
    ):
        row = run[f"{face} hit, span {span}"]
        if micros:
            yield _within(f"{face} hit, span {span}", row, micros)
        yield _faster(f"{face} hit, span {span}, against {base}", row, run[base], factor)


def _circuit(run: Run) -> Iterator[Goal]:
    yield _within("closed breaker, net", run.breaker.policy, 1)
    for face in ("aio", "sync"):
        for span in ("on", "off"):
            yield _within(f"{face} open circuit, span {span}", run[f"{face} open circuit, span {span}"], 100)


def _growth(run: Run) -> Iterator[Goal]:
    for what, sizes in (("entries", run.growth.by_entries), ("peers", run.growth.by_peers)):
        first, last = sizes[0], sizes[-1]
        counts = f"{getattr(first, what):,} to {getattr(last, what):,} {what}"
        yield _at_most(f"hit, {counts}", last.samples, first.samples, FLAT)


def _sharing(run: Run) -> Iterator[Goal]:
    calls, extra = run.shared_calls.chain_calls, median(run.shared_calls.chain_ms) - median(run.shared_calls.one_ms)
    measured = f"{max(calls)} at the server; {extra:+.1f} ms on one bare call"
    yield Goal("calls of 100 identical misses at once", "1", measured, max(calls) == 1)


def _sessions(run: Run) -> Iterator[Goal]:
    rows = run.sessions.rows
    yield _at_most(f"{EIGHT}, against one bare call", rows[EIGHT], rows[BARE_SLOW], 1.3)
    yield _within(SILENT, rows[SILENT], 5_000)
    yield _beyond(f"{FIRST}, over local alone", rows[FIRST], rows[LOCAL], 20)
    yield _beyond(f"{OFFLINE}, over local alone", rows[OFFLINE], rows[LOCAL], 1)


def _status(run: Run) -> Iterator[Goal]:
    status = run.status
    for name, limit_s in ((status.one, 0.5), (status.many, 2.0)):
        row, base = status.rows[name], status.rows[PYTHON]
        best_s, ratio = row.best_us / 1e6, row.ratio(base).middle
        measured = f"{best_s:.2f} s best round; {row.p50_us / 1e6:.2f} s median; {ratio:.1f}x {PYTHON}"
        yield Goal(f"{name}, its process's start included", f"<= {limit_s:g} s", measured, best_s <= limit_s)


def _elsewhere() -> Iterator[Goal]:
    yield Goal("open circuit against an ejecting Envoy", "6x faster", "no Envoy in this run", None)


def _at_most(what: str, row: Samples, base: Samples, limit: float) -> Goal:
    best, middle = row.best_ratio(base), row.ratio(base)
    measured = f"{middle.middle:.2f}x median ({middle.low:.2f}..{middle.high:.2f}); {best:.2f}x best rounds"
    return Goal(what, f"<= {limit:.2f}x", measured, middle.middle <= limit, f"{middle.middle / limit - 1:+.1%}")


def _beyond(what: str, row: Samples, base: Samples, limit_ms: float) -> Goal:
    spread = row.beyond(base)
    low, middle, high = (us / 1e3 for us in (spread.low, spread.middle, spread.high))
    measured = f"{middle:.2f} ms median ({low:.2f}..{high:.2f})"
    return Goal(what, f"<= {limit_ms:g} ms", measured, middle <= limit_ms, f"{middle / limit_ms - 1:+.1%}")


def _faster(what: str, row: Samples, base: Samples, factor: float) -> Goal:
    best, middle = 1 / row.best_ratio(base), row.ratio(base).inverse()
    measured = f"{middle.middle:.1f}x median ({middle.low:.1f}..{middle.high:.1f}); {best:.1f}x best rounds"
    return Goal(what, f">= {factor:g}x faster", measured, middle.middle >= factor, f"{middle.middle / factor - 1:+.1%}")


def _within(what: str, row: Samples, micros: float) -> Goal:
    best = row.best_us
    measured = f"{_micros(best)} us best round; {_micros(row.p50_us)} us median"
    return Goal(what, f"<= {micros:,g} us", measured, best <= micros, f"{best / micros - 1:+.1%}")


def _micros(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"
