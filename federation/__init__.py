"""Live, scoped reads between two gateways over mutual TLS.

`Federation` opens a gateway's peers for asyncio, `sync_channel` for threads; both give the generated stubs of
`federation.v1` a chain with cache, circuit and spans. `fields` reads a row's data.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from federation.federation import Federation, fields, sync_channel

__all__ = ["Federation", "fields", "sync_channel"]


def __getattr__(name: str) -> Any:
    """Import the public names at their first use, so that a module of the package costs no more than it needs."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from federation import federation  # noqa: PLC0415

    value = globals()[name] = getattr(federation, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
