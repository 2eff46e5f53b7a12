import grpc
import pytest

from federation.pki.authority import Authority
from tests.support.enrollments import WORK, csr
from tests.support.pki import GRANT_ID, HANDSHAKE_FAULTS, PEER, Leaf, Pki, dial, new_key, server_credentials


@pytest.mark.parametrize("fault", [None, *HANDSHAKE_FAULTS])
async def test_what_the_authority_issues_passes_mutual_tls_and_bad_certificates_do_not(fault: str | None) -> None:
    """A server that requires client certificates accepts those of its authority, and no forged or expired one."""
    authority = Authority.create(WORK, ["127.0.0.1"])
    pki, key = Pki.of(authority), new_key()
    issued = authority.issue_client(
        csr(key), grant_id="1" * 8 + "-1111-4111-8111-" + "1" * 12, subject="ada", peer=PEER, lifetime_s=300
    )
    good = Leaf(issued.pem, pki.client(key=key).key_pem)
    leaf = good if fault is None else HANDSHAKE_FAULTS[fault](pki, GRANT_ID, "ada")
    server = grpc.aio.server()
    own = Leaf(authority.server_certificate_pem, authority.server_key_pem)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(own, authority.trust_bundle))
    await server.start()
    try:
        async with dial(f"127.0.0.1:{port}", WORK, authority.trust_bundle, leaf) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/x/Y")(b"", timeout=10)
    finally:
        await server.stop(0)

    expected = grpc.StatusCode.UNIMPLEMENTED if fault is None else grpc.StatusCode.UNAVAILABLE
    assert caught.value.code() is expected
