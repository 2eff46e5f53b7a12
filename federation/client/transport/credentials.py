"""The dialer of an enrollment: its key, its certificate, and the one authority that it trusts."""

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from federation.client.chain.flow import Outcome, refused
from federation.client.transport.raw_channels import aio_secure_channel, secure_channel
from federation.clock import Clock, from_micros, to_micros
from federation.errors import ENROLL_AGAIN, Action, Reason, Refusal
from federation.pki.certificates import parsed
from federation.pki.rotation_policy import AFTER_EXPIRY_US
from federation.store.peers import PeerRecord
from federation.wire.channel_args import CHANNEL


class EnrolledDialer:
    """Opens mutual TLS channels to the peer of a record: trusts its bundle alone, under the gateway's own name.

    A certificate that expired, or that does not match the stored key, is refused before dialling; from the handshake
    alone, either would look like an unreachable peer.
    """

    def __init__(self, record: PeerRecord, clock: Clock) -> None:
        self._record, self._clock = record, clock
        self._options = CHANNEL.to_grpc(record.gateway)
        self._not_after_us, self._fault = _read(record)
        self._credentials = grpc.ssl_channel_credentials(
            record.trust_bundle.encode(), record.key_pem.encode(), record.certificate_pem.encode()
        )

    def refusal(self) -> Outcome | None:
        """Return a local CERTIFICATE_INVALID if the own certificate cannot be used."""
        if not self._fault and self._clock.now_us() < self._not_after_us:
            return None
        fault = self._fault or f"expired at {from_micros(self._not_after_us):%Y-%m-%dT%H:%M:%SZ}"
        name, user = self._record.name, self._record.user
        if not self._fault and self._clock.now_us() <= self._not_after_us + AFTER_EXPIRY_US:
            cure, action = "it is being renewed; rotate it to try at once", Action.ROTATE_PEER
        else:
            cure, action = ENROLL_AGAIN, Action.ENROLL_AGAIN
        text = f"this gateway's own certificate for {name} (user {user}) {fault}; {cure}"
        return refused(Refusal(Reason.CERTIFICATE_INVALID, text, remedy=self._record.remedy(action)))

    def aio(self) -> grpc.aio.Channel:
        """Open a channel on the running loop."""
        return aio_secure_channel(self._record.endpoint, self._credentials, self._options)

    def sync(self) -> grpc.Channel:
        """Open a channel for threads."""
        return secure_channel(self._record.endpoint, self._credentials, self._options)


def _read(record: PeerRecord) -> tuple[int, str]:
    """Return when the certificate expires, and the fault of the stored pair."""
    try:
        certificate = parsed(record.certificate_pem)
        key = load_pem_private_key(record.key_pem.encode(), None)
    except (ValueError, TypeError):
        return 0, "cannot be read"
    if certificate.public_key() != key.public_key():
        return 0, "does not fit the stored key"
    return to_micros(certificate.not_valid_after_utc), ""
