"""Checks of the grant and the verb by real calls, on a separate channel that does not affect the gateway's circuit.

For the peer the calls are ordinary reads: they count for its rate limit and appear in its audit trail.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc

from federation.client.transport.raw_channels import secure_channel
from federation.explain.checks import BrokenLink
from federation.explain.refusals import OutOfScope, explain_error, widen_hint, widen_remedy
from federation.sanitize import printable
from federation.store.peers import PeerRecord
from federation.suggest import hint
from federation.v1 import federation_pb2 as pb
from federation.v1.federation_pb2_grpc import FederationServiceStub
from federation.wire.channel_args import CHANNEL

MAX_NAMES: Final = 20
"""Resource names that are displayed. A peer may send any number."""


@contextmanager
def stub_of(record: PeerRecord) -> Iterator[FederationServiceStub]:
    """Yield a generated stub on a new channel with the credentials of the enrollment."""
    credentials = grpc.ssl_channel_credentials(
        record.trust_bundle.encode(), record.key_pem.encode(), record.certificate_pem.encode()
    )
    with secure_channel(record.endpoint, credentials, CHANNEL.to_grpc(record.gateway)) as channel:
        yield FederationServiceStub(channel)


def check_grant(
    stub: FederationServiceStub, record: PeerRecord, timeout_s: float
) -> tuple[pb.CapabilitiesResponse, str]:
    """Return what the grant opens, and a detail. Raises `BrokenLink`, or `RateLimited` if the grant was not checked."""
    try:
        answer = stub.Capabilities(pb.CapabilitiesRequest(), timeout=timeout_s)
    except grpc.RpcError as e:
        raise explain_error(record, e, timeout_s) from None
    opened = _resource_names(answer) or "nothing"
    return answer, f"{record.grant_id} opens {opened}; at most {answer.max_rows_per_query} rows a query"


def check_verb(
    stub: FederationServiceStub, record: PeerRecord, opened: pb.CapabilitiesResponse, resource: str, timeout_s: float
) -> tuple[None, str]:
    """List one row of a resource, by default the first that the grant opens; the row itself is discarded.

    Raises `BrokenLink`.
    """
    if not resource and not opened.resources:
        raise BrokenLink(f"the grant {record.grant_id} opens no resource", widen_hint(record), widen_remedy(record))
    resource = resource or opened.resources[0]
    try:
        answer = stub.List(pb.ListRequest(resource=resource, page_size=1), timeout=timeout_s)
    except grpc.RpcError as e:
        fault = explain_error(record, e, timeout_s)
        raise (_not_opened(record, opened, resource) if isinstance(fault, OutOfScope) else fault) from None
    found = "there are rows to read" if answer.rows else "the grant opens no row of it"
    return None, printable(f"list {resource} was answered: {found}")


def _not_opened(record: PeerRecord, opened: pb.CapabilitiesResponse, resource: str) -> BrokenLink:
    """Return why the grant does not open a resource: excluded, or not named."""
    if resource in opened.excluded_resources:
        cause = f"the grant {record.grant_id} excludes the resource {resource}"
    else:
        meant = hint(resource, opened.resources[:MAX_NAMES])
        cause = f"the grant {record.grant_id} does not name the resource {resource}{f'; {meant}' if meant else ''}"
    cure = f"request a resource that it opens ({_resource_names(opened) or 'nothing'}), or {widen_hint(record)}"
    return BrokenLink(printable(cause), cure, widen_remedy(record))


def _resource_names(opened: pb.CapabilitiesResponse) -> str:
    return printable(", ".join(opened.resources[:MAX_NAMES]))
