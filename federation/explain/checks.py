"""The links of a call to a peer, and the result of checking one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import TypeVar

from federation.errors import Remedy

T = TypeVar("T")


class Link(StrEnum):
    """The links of a call, in the order in which the call needs them."""

    DNS = "dns"
    TCP = "tcp"
    TLS = "tls"
    CERTIFICATE = "certificate"
    """This gateway's own client certificate."""
    GRANT = "grant"
    VERB = "verb"


class LinkState(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    BROKEN = "broken"
    NOT_REACHED = "not_reached"
    """Not checked, because an earlier link is broken."""


class BrokenLink(Exception):  # noqa: N818 - a finding, not an error of the program
    """A check failed. `cause` says why, `cure` what to do or which operator to ask.

    `remedy` is the operator's act that completes the last clause of `cure`, `None` if there is none.
    """

    def __init__(self, cause: str, cure: str, remedy: Remedy | None = None) -> None:
        super().__init__(cause)
        self.cause, self.cure, self.remedy = cause, cure, remedy


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of checking one link. `took_ms` is `None` if no check ran; `fault` is set if the link is broken."""

    link: Link
    state: LinkState
    took_ms: float | None = None
    detail: str = ""
    fault: BrokenLink | None = None


def run_check(link: Link, work: Callable[[], tuple[T, str]]) -> tuple[CheckResult, T | None]:
    """Check a link: `work` returns a value for the next check and a detail to display, or raises `BrokenLink`."""
    started = perf_counter()
    try:
        value, detail = work()
    except BrokenLink as fault:
        return CheckResult(link, LinkState.BROKEN, _elapsed_ms(started), fault.cause, fault), None
    return CheckResult(link, LinkState.OK, _elapsed_ms(started), detail), value


def not_reached(link: Link, detail: str = "") -> CheckResult:
    """Return the result of a link that was not checked."""
    return CheckResult(link, LinkState.NOT_REACHED, None, detail)


def first_broken(results: Iterable[CheckResult]) -> CheckResult | None:
    """Return the first result with a broken link, or `None` if every link holds."""
    return next((result for result in results if result.fault is not None), None)


def _elapsed_ms(started: float) -> float:
    return (perf_counter() - started) * 1e3
