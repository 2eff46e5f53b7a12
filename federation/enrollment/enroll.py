"""The enrolling side: calls the gateway that a token names, and verifies its answer."""

import uuid
from dataclasses import dataclass
from typing import Final

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.clock import SYSTEM_CLOCK, Clock
from federation.enrollment.verification import check_answer
from federation.errors import EnrollmentError, Reason
from federation.pki.authority import private_key_pem
from federation.pki.csr import make_request
from federation.pki.enrollment_token import EnrollmentToken
from federation.sanitize import printable
from federation.store.enrollment_tokens import hash_secret
from federation.store.peers import PeerRecord, PeerStore
from federation.v1 import enrollment_pb2 as pb
from federation.v1 import enrollment_pb2_grpc
from federation.wire.channel_args import CHANNEL
from federation.wire.status import error_detail_of

TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class EnrolledPeer:
    """A successful enrollment. The two operators compare `fingerprint` (SHA-256, hexadecimal)."""

    record: PeerRecord
    fingerprint: str
    awaiting_confirmation: bool


async def enroll(
    token: EnrollmentToken,
    *,
    gateway_name: str,
    user: str,
    peers: PeerStore,
    name: str = "",
    clock: Clock = SYSTEM_CLOCK,
    timeout_s: float = TIMEOUT_S,
) -> EnrolledPeer:
    """Enroll this gateway, `gateway_name`, for its local user `user`, and store the peer as `name`.

    The key is stored, sealed, before the request is sent. A retry with the same token uses the same key, so a lost
    answer costs nothing. Raises `InputError` or `ConflictError` before the token is redeemed, `EnrollmentError` with
    the attempt, the cause and the remedy, and `StoreError` or `SealError` of the store.
    """
    name = name or token.gateway
    await peers.check_new(name=name, user=user, grant_id=token.grant_id)
    secret_hash = hash_secret(token.secret)
    key_pem = await peers.pending_key(secret_hash, lambda: private_key_pem(ec.generate_private_key(ec.SECP256R1())))
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise EnrollmentError("the key stored for this enrollment is not an elliptic-curve key; ask for a new token")
    request = pb.EnrollRequest(secret=token.secret, csr=make_request(key, gateway_name))
    try:
        answer = await _call(token, request, timeout_s)
    except grpc.RpcError as e:
        if error_detail_of(e).reason == Reason.GRANT_INVALID:
            await peers.remove_pending(secret_hash)
        raise EnrollmentError(f"enrolling at {token.gateway} ({token.endpoint}): {_error_text(e, gateway_name)}") from e
    try:
        verified = check_answer(answer, token, key.public_key(), clock.now_us())
    except ValueError as e:
        problem = f"its answer was refused, because {e}; ask the operator of {token.gateway}, and for a new token"
        raise EnrollmentError(f"enrolling at {token.gateway} ({token.endpoint}): {problem}") from e
    record = PeerRecord(
        id=str(uuid.uuid4()),
        name=name,
        user=user,
        gateway=token.gateway,
        endpoint=answer.endpoint,
        grant_id=answer.grant_id,
        subject=answer.subject,
        certificate_pem=verified.certificate_pem,
        key_pem=key_pem,
        trust_bundle=verified.trust_bundle,
        created_at_us=clock.now_us(),
        enrollment_endpoint=token.endpoint,
    )
    await peers.add(record, completes=secret_hash)
    return EnrolledPeer(record, verified.fingerprint, answer.awaiting_confirmation)


async def _call(token: EnrollmentToken, request: pb.EnrollRequest, timeout_s: float) -> pb.EnrollResponse:
    credentials = grpc.ssl_channel_credentials(token.ca_certificate_pem.encode())
    options = CHANNEL.to_grpc(token.gateway)
    async with grpc.aio.secure_channel(token.endpoint, credentials, options=options) as channel:
        stub = enrollment_pb2_grpc.EnrollmentServiceStub(channel)
        answer: pb.EnrollResponse = await stub.Enroll(request, timeout=timeout_s)
        return answer


def _error_text(error: grpc.RpcError, gateway_name: str) -> str:
    code: grpc.StatusCode = error.code()
    details = printable(error.details() or "")
    again = "then repeat the enrollment with this token, which is still valid"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            "the certificate of the server is not issued by the authority in the token; check the address, and " + again
        )
    if "Hostname Verification" in details:
        return "the server has the certificate of another gateway; check the address, and " + again
    if error_detail_of(error).reason == Reason.GRANT_INVALID:
        return f"refused: {details}"
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return f"refused: {details}; this gateway's name is {gateway_name}, and the grant must be for this name"
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"it cannot be reached ({details}); check that it is running, {again}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer in time; check that it is running, {again}"
    return f"{code.name}: {details}; wait a little, {again}"
