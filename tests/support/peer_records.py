"""Enrollments of users at a peer, as the peer store keeps them."""

from federation.store.peers import PeerRecord
from tests.support.pki import GRANT_ID, Leaf


def peer_record(
    leaf: Leaf,
    trust_bundle: str,
    endpoint: str,
    *,
    id: str = "",  # noqa: A002 - the field's name
    name: str = "work.example",
    gateway: str = "",
    user: str = "ada",
    subject: str = "",
    grant_id: str = GRANT_ID,
) -> PeerRecord:
    """An enrollment of `user` with this certificate; gateway and subject default to `name` and `user`."""
    return PeerRecord(
        id=id or f"peer-{name}-{user}",
        name=name,
        user=user,
        gateway=gateway or name,
        endpoint=endpoint,
        grant_id=grant_id,
        subject=subject or user,
        certificate_pem=leaf.certificate_pem,
        key_pem=leaf.key_pem,
        trust_bundle=trust_bundle,
        created_at_us=0,
    )
