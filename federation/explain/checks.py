"""The links of the way to a peer as plain values: how each stands, and what to do about a broken one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import TypeVar

from federation.errors import Remedy

__all__ = ["BrokenLink", "CheckResult", "Link", "LinkState", "first_broken", "not_reached", "run_check"]

T = TypeVar("T")


class Link(StrEnum):
    """The links in the order in which a call needs them."""

    DNS = "dns"
    TCP = "tcp"
    TLS = "tls"
    CERTIFICATE = "certificate"
    """This gateway's own, which it shows to the peer."""
    GRANT = "grant"
    VERB = "verb"


class LinkState(StrEnum):
    """How a link stands."""

    OK = "ok"
    BROKEN = "broken"
    NOT_REACHED = "not_reached"
    """Nothing can be said, because an earlier link is broken."""


class BrokenLink(Exception):  # noqa: N818 - it is a finding, not a malfunction
    """A link does not hold: why, and what to do or whom to ask, in plain words.

    `remedy` is the act that completes the last clause of the cure; `None` where the cure names none.
    """

    def __init__(self, cause: str, cure: str, remedy: Remedy | None = None) -> None:
        super().__init__(cause)
        self.cause, self.cure, self.remedy = cause, cure, remedy


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found of one link. `took_ms` is `None` where nothing was run_check; `fault` is set where it is broken."""

    link: Link
    state: LinkState
    took_ms: float | None = None
    detail: str = ""
    fault: BrokenLink | None = None


def run_check(link: Link, work: Callable[[], tuple[T, str]]) -> tuple[CheckResult, T | None]:
    """Try a link: `work` returns what the next link needs and a detail for people, or raises `BrokenLink`."""
    started = perf_counter()
    try:
        value, detail = work()
    except BrokenLink as fault:
        return CheckResult(link, LinkState.BROKEN, _elapsed_ms(started), fault.cause, fault), None
    return CheckResult(link, LinkState.OK, _elapsed_ms(started), detail), value


def not_reached(link: Link, detail: str = "") -> CheckResult:
    """Return the result of a link of which nothing can be said."""
    return CheckResult(link, LinkState.NOT_REACHED, None, detail)


def first_broken(results: Iterable[CheckResult]) -> CheckResult | None:
    """Return the first broken result, which is the one to mend, or `None` where none is."""
    return next((result for result in results if result.fault is not None), None)


def _elapsed_ms(started: float) -> float:
    return (perf_counter() - started) * 1e3
