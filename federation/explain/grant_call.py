"""The grant and the verb, asked for by real calls over a channel of its own, which leaves the gateway's circuit alone.

To the peer these are ordinary reads: they count for its rate limit and stand in its audit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc

from federation.client.transport.raw_channels import secure_channel
from federation.explain.checks import BrokenLink
from federation.explain.refusals import OutOfScope, fault_of, scope_there, wider
from federation.sanitize import printable
from federation.store.peers import PeerRecord
from federation.suggest import hint
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.channel_args import CHANNEL

__all__ = ["list_one", "look_at_grant", "stub_of"]

MOST_NAMES: Final = 20
"""Names of resources that are shown; a peer may send any number."""


@contextmanager
def stub_of(record: PeerRecord) -> Iterator[FederationServiceStub]:
    """Yield the generated stub on a fresh channel with the enrollment's credentials."""
    credentials = grpc.ssl_channel_credentials(
        record.trust_bundle.encode(), record.key_pem.encode(), record.certificate_pem.encode()
    )
    with secure_channel(record.endpoint, credentials, CHANNEL.to_grpc(record.gateway)) as channel:
        yield FederationServiceStub(channel)


def look_at_grant(
    stub: FederationServiceStub, record: PeerRecord, timeout_s: float
) -> tuple[pb.CapabilitiesResponse, str]:
    """Return what the grant opens; raise `BrokenLink`, a `RateLimited` one where the peer did not look at it."""
    try:
        answer = stub.Capabilities(pb.CapabilitiesRequest(), timeout=timeout_s)
    except grpc.RpcError as e:
        raise fault_of(record, e, timeout_s) from None
    opened = _named(answer) or "nothing"
    return answer, f"{record.grant_id} opens {opened}; at most {answer.max_rows_per_query} rows a query"


def list_one(
    stub: FederationServiceStub, record: PeerRecord, opened: pb.CapabilitiesResponse, resource: str, timeout_s: float
) -> tuple[None, str]:
    """List one row of a resource (the first open one where it is empty), and tell only that there was an answer.

    Raises `BrokenLink`.
    """
    if not resource and not opened.resources:
        raise BrokenLink(f"the grant {record.grant_id} opens no resource at all", wider(record), scope_there(record))
    resource = resource or opened.resources[0]
    try:
        answer = stub.List(pb.ListRequest(resource=resource, page_size=1), timeout=timeout_s)
    except grpc.RpcError as e:
        fault = fault_of(record, e, timeout_s)
        raise (_closed(record, opened, resource) if isinstance(fault, OutOfScope) else fault) from None
    found = "there is something to read" if answer.rows else "there is nothing that the grant lets through"
    return None, printable(f"list {resource} was answered: {found}")


def _closed(record: PeerRecord, opened: pb.CapabilitiesResponse, resource: str) -> BrokenLink:
    """Return why the grant does not open a resource: excluded, or never named."""
    if resource in opened.excluded_resources:
        cause = f"the grant {record.grant_id} excludes the resource {resource}"
    else:
        meant = hint(resource, opened.resources[:MOST_NAMES])
        cause = f"the grant {record.grant_id} does not name the resource {resource}{f'; {meant}' if meant else ''}"
    cure = f"ask for what it opens ({_named(opened) or 'nothing'}), or {wider(record)}"
    return BrokenLink(printable(cause), cure, scope_there(record))


def _named(opened: pb.CapabilitiesResponse) -> str:
    return printable(", ".join(opened.resources[:MOST_NAMES]))
