"""Live, scoped reads between two gateways over mutual TLS.

`Federation` connects to a gateway's peers from asyncio, `sync_channel` from threads. Both run the generated stubs of
`federation.v1` through the client chain: cache, circuit breaker and spans. `fields` decodes a row's data.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from federation.federation import Federation, fields, sync_channel

__all__ = ["Federation", "fields", "sync_channel"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing a submodule does not import the whole package."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from federation import federation  # noqa: PLC0415

    value = globals()[name] = getattr(federation, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
