import grpc
import pytest

from federation.clock import SYSTEM_CLOCK
from federation.pki.authority import Authority
from federation.server.transport import tls


def test_a_port_is_handed_a_configuration_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handshakes of an unchanged certificate change nothing in gRPC; a published one reaches each port once."""
    fetches = []
    monkeypatch.setattr(
        grpc, "dynamic_ssl_server_credentials", lambda _first, fetch, **_options: fetches.append(fetch) or fetch
    )
    authority = Authority.create("work.example", clock=SYSTEM_CLOCK)
    material = tls.TlsMaterial(authority)
    for wanted in (True, False):
        material.credentials(client_certificates=wanted)

    assert [fetch() for fetch in fetches * 2] == [None] * 4

    material.publish(authority)

    assert [fetch() for fetch in fetches] == [material.current] * 2
    assert [fetch() for fetch in fetches] == [None] * 2
