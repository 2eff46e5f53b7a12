"""The table of verbs of the federation service, from which every other list of verbs is derived.

The methods and their message types come from the service's descriptor; `PROPERTIES` adds what the proto cannot say. The
handler of a verb is the method of `federation.verbs.handlers.Verbs` with the verb's name.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from federation.v1 import federation_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """The properties of a verb that the proto does not state."""

    cacheable: bool = False
    """Peers may cache the answer for the time of its lease, and identical concurrent requests share one call."""
    paged: bool = False
    """Answers carry `next_page_token`, and requests `page_size` and `page_token`."""
    audited: bool = True
    """Each answer is an audit event, which is written before the answer leaves."""


PROPERTIES: Final[Mapping[str, Properties]] = {
    "List": Properties(cacheable=True, paged=True),
    "Get": Properties(cacheable=True),
    "Search": Properties(paged=True),
    "Capabilities": Properties(),
    "Watch": Properties(audited=False),
}
"""One line per method of the service, by the method's name in the proto."""


@dataclass(frozen=True, slots=True)
class Verb(Properties):
    """One verb: a method of `FederationService` with its message types and properties."""

    name: str
    """The name in audit events, metrics, spans and cache keys: the method's name in lower case."""
    method: str
    """The name in the proto."""
    path: str
    """The path on the wire: `/<service>/<method>`."""
    request: type[Message]
    response: type[Message]
    streams: bool
    """Requests or responses are a stream."""


def verbs_of(service: Any, properties: Mapping[str, Properties]) -> tuple[Verb, ...]:
    """Return the verbs of a service descriptor in the order of its methods.

    Raises `ValueError` unless `properties` has exactly one entry for each method.
    """
    methods = {method.name: method for method in service.methods}
    for name in sorted(methods.keys() - properties.keys()):
        raise ValueError(f"{service.full_name}.{name} has no entry in PROPERTIES of federation/wire/verbs.py; add one")
    for name in sorted(properties.keys() - methods.keys()):
        raise ValueError(f"PROPERTIES of federation/wire/verbs.py names {name}, which {service.full_name} lacks")
    return tuple(
        Verb(
            name.lower(),
            name,
            f"/{service.full_name}/{name}",
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.client_streaming or method.server_streaming,
            **asdict(properties[name]),
        )
        for name, method in methods.items()
    )


_SERVICE: Final = pb.DESCRIPTOR.services_by_name["FederationService"]

SERVICE_NAME: Final[str] = _SERVICE.full_name
VERBS: Final = verbs_of(_SERVICE, PROPERTIES)
"""Every verb, in the order of the proto."""
VERB_BY_NAME: Final[Mapping[str, Verb]] = {verb.name: verb for verb in VERBS}
STREAMING_VERBS: Final = frozenset(verb.name for verb in VERBS if verb.streams)
