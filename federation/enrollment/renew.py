"""The renewing side: requests a certificate for a new key, and verifies the answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.clock import SYSTEM_CLOCK, Clock, from_micros
from federation.enrollment.verification import check_renewal
from federation.errors import ENROLL_AGAIN, Action, EnrollmentError, Reason, Refusal
from federation.pki.authority import private_key_pem
from federation.pki.certificates import parsed, serial_of, validity_us
from federation.pki.csr import make_request
from federation.pki.renewal_proof import make_proof
from federation.pki.rotation_policy import AFTER_EXPIRY_US
from federation.sanitize import printable
from federation.store.peers import PeerRecord, PendingRenewal
from federation.v1 import enrollment_pb2 as pb
from federation.v1 import enrollment_pb2_grpc
from federation.wire.channel_args import CHANNEL
from federation.wire.status import error_detail_of

TIMEOUT_S: Final = 15.0
ACCEPTED_REASONS: Final = frozenset(
    {
        Reason.GRANT_REVOKED,
        Reason.GRANT_INVALID,
        Reason.CERTIFICATE_INVALID,
        Reason.RATE_LIMITED,
        Reason.INVALID_REQUEST,
        Reason.INTERNAL,
    }
)
"""Reasons accepted from another gateway; this gateway determines the other reasons itself."""


class Renewable(Protocol):
    """The store of a renewal; `PeerStore` implements it."""

    async def pending_renewal(self, peer_id: str, make: Callable[[], PendingRenewal]) -> PendingRenewal:
        """Return the key and request of a pending renewal, or make and store new ones."""
        ...

    async def renew(self, record: PeerRecord, *, replaces: str) -> None:
        """Store a peer's new certificate, key and trust bundle in place of the old ones."""
        ...


async def renew(
    record: PeerRecord,
    *,
    gateway_name: str,
    peers: Renewable,
    clock: Clock = SYSTEM_CLOCK,
    timeout_s: float = TIMEOUT_S,
) -> PeerRecord:
    """Get a new certificate for a peer of this gateway, `gateway_name`, store it, and return the changed record.

    The new key is stored, sealed, before the request is sent, and reused until its certificate is stored, so a lost
    answer costs nothing. An expired certificate is renewed by a proof of its key, for up to 7 days.

    Raises `Refusal`, with the peer's own reason or a local one (`PEER_UNREACHABLE`, `PEER_TIMEOUT`,
    `CERTIFICATE_INVALID` when it is too late); `EnrollmentError` for an invalid answer; `ConflictError` if another
    process renewed or removed the peer meanwhile; `StoreError` or `SealError` of the store.
    """
    old_key, old = _key(record.key_pem, record), _certificate(record)
    _, end = validity_us(old)
    expired = clock.now_us() >= end
    if expired and (clock.now_us() > end + AFTER_EXPIRY_US or not record.enrollment_endpoint):
        raise _too_late(record, end)
    pending = await peers.pending_renewal(record.id, lambda: _new_renewal(gateway_name))
    request = pb.RenewRequest(csr=pending.csr_der)
    if expired:
        proof = make_proof(
            old_key, grant_id=record.grant_id, serial=serial_of(old), csr_der=pending.csr_der, now_us=clock.now_us()
        )
        request.proof.CopyFrom(proof)
    key = _key(pending.key_pem, record)
    try:
        answer = await _call(record, request, timeout_s, expired=expired)
    except grpc.RpcError as e:
        raise _refusal(e, record) from e
    try:
        verified = check_renewal(answer, record, key.public_key(), clock.now_us())
    except ValueError as e:
        problem = f"its answer was refused, because {e}; ask the operator of {record.gateway}"
        raise EnrollmentError(f"renewing the certificate for {record.name}: {problem}") from e
    renewed = replace(
        record,
        certificate_pem=verified.certificate_pem,
        key_pem=pending.key_pem,
        trust_bundle=verified.trust_bundle,
    )
    await peers.renew(renewed, replaces=record.certificate_pem)
    return renewed


def _new_renewal(gateway_name: str) -> PendingRenewal:
    key = ec.generate_private_key(ec.SECP256R1())
    return PendingRenewal(private_key_pem(key), make_request(key, gateway_name))


def _certificate(record: PeerRecord) -> x509.Certificate:
    try:
        return parsed(record.certificate_pem)
    except ValueError:
        problem = f"the certificate stored for {record.name} cannot be read; {ENROLL_AGAIN}"
        raise EnrollmentError(problem, remedy=record.remedy(Action.ENROLL_AGAIN)) from None


def _key(pem: str, record: PeerRecord) -> ec.EllipticCurvePrivateKey:
    try:
        key: object = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        problem = f"the key stored for {record.name} cannot be used; {ENROLL_AGAIN}"
        raise EnrollmentError(problem, remedy=record.remedy(Action.ENROLL_AGAIN))
    return key


async def _call(record: PeerRecord, request: pb.RenewRequest, timeout_s: float, *, expired: bool) -> pb.RenewResponse:
    roots = record.trust_bundle.encode()
    if expired:
        target, credentials = record.enrollment_endpoint, grpc.ssl_channel_credentials(roots)
    else:
        pair = (record.key_pem.encode(), record.certificate_pem.encode())
        target, credentials = record.endpoint, grpc.ssl_channel_credentials(roots, *pair)
    async with grpc.aio.secure_channel(target, credentials, options=CHANNEL.to_grpc(record.gateway)) as channel:
        stub = enrollment_pb2_grpc.EnrollmentServiceStub(channel)
        answer: pb.RenewResponse = await stub.Renew(request, timeout=timeout_s)
        return answer


def _refusal(error: grpc.RpcError, record: PeerRecord) -> Refusal | EnrollmentError:
    what = f"renewing the certificate for {record.name}"
    details = printable(error.details() or "")
    detail = error_detail_of(error)
    if detail.reason in ACCEPTED_REASONS and not detail.local:
        return Refusal(Reason(detail.reason), f"{what}: refused: {details}", retry_after_s=detail.retry_after_s)
    code: grpc.StatusCode = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Refusal(Reason.PEER_TIMEOUT, f"{what}: no answer in time")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Refusal(Reason.PEER_UNREACHABLE, f"{what}: it cannot be reached ({details})")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return EnrollmentError(
            f"{what}: the gateway {record.gateway} does not support renewal; its version may be too old"
        )
    return EnrollmentError(f"{what}: {code.name}: {details}")


def _too_late(record: PeerRecord, end_us: int) -> Refusal:
    at = f"{from_micros(end_us):%Y-%m-%dT%H:%M:%SZ}"
    text = f"the certificate for {record.name} expired at {at}, which is too long ago to renew it; {ENROLL_AGAIN}"
    return Refusal(Reason.CERTIFICATE_INVALID, text, remedy=record.remedy(Action.ENROLL_AGAIN))
