"""The gateway's own server certificate is renewed before it ends, and when its names change, without a restart."""

import asyncio
import logging
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509

from federation.aio import cancel_and_wait
from federation.bootstrap import init_gateway
from federation.clock import SYSTEM_CLOCK, Clock
from federation.config import GatewayConfig
from federation.errors import ConfigError, StoreError
from federation.gateway import Gateway
from federation.pki.authority import CA_LIFETIME, Authority
from federation.pki.certificates import serial_of
from federation.server.transport.server_certificate import ServerCertificate
from federation.server.transport.tls import TlsMaterial
from federation.store.database import Database
from federation.store.identity import load_identity, save_identity, save_server_certificate
from tests.support.clock import ManualClock
from tests.support.enrollments import SEALER
from tests.support.scripted import eventually

DAY_S = 86_400
NAME = "work.example"


class CertificateSink:
    """The certificates saved and shown, in order."""

    def __init__(self) -> None:
        self.acts: list[tuple[str, str]] = []
        self.faults: dict[str, Exception] = {}
        self.attempts = 0

    async def save(self, authority: Authority) -> None:
        self.attempts += 1
        if "save" in self.faults:
            raise self.faults["save"]
        self.acts.append(("saved", authority.server_certificate_pem))

    def publish(self, authority: Authority) -> None:
        if "publish" in self.faults:
            raise self.faults["publish"]
        self.acts.append(("shown", authority.server_certificate_pem))


def kept(
    hands: ManualClock, sink: CertificateSink, *, hosts: tuple[str, ...] = ("127.0.0.1",), life_s: float = DAY_S
) -> ServerCertificate:
    """A certificate of a day, made now."""
    authority = Authority.create(NAME, ("127.0.0.1",), hands.clock, life_s)
    return ServerCertificate(authority, hosts, lifetime_s=life_s, save=sink.save, clock=hands.clock)


async def test_it_is_renewed_at_two_thirds_of_its_life() -> None:
    """A new key and certificate of the same authority, stored before it is published."""
    hands, sink = ManualClock(), CertificateSink()
    certificate = kept(hands, sink)
    old = certificate.authority
    hands.advance(DAY_S * 0.6)
    await certificate.refresh(sink.publish)
    assert sink.acts == []

    hands.advance(DAY_S * 0.15)
    await certificate.refresh(sink.publish)
    await certificate.refresh(sink.publish)

    new = certificate.authority
    assert sink.acts == [("saved", new.server_certificate_pem), ("shown", new.server_certificate_pem)]
    assert new.server_key_pem != old.server_key_pem
    assert new.ca_certificate_pem == old.ca_certificate_pem
    assert certificate.warnings == ()


async def test_the_life_can_be_five_minutes() -> None:
    """The shortest that can be configured; a check every 30 s renews it in time."""
    hands, sink = ManualClock(), CertificateSink()
    certificate = kept(hands, sink, life_s=300)
    for _ in range(20):
        hands.advance(30)
        await certificate.refresh(sink.publish)
        assert certificate.validity.not_after_us > hands.clock.now_us() + 30_000_000


async def test_names_that_changed_bring_a_new_certificate() -> None:
    """Another advertised host is carried from the next start on; the gateway's own name always is."""
    hands, sink = ManualClock(), CertificateSink()
    certificate = kept(hands, sink, hosts=("gateway.example.org",))

    assert await certificate.refresh()
    assert not await certificate.refresh()

    names = x509.load_pem_x509_certificate(certificate.authority.server_certificate_pem.encode())
    found = names.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == [NAME, "gateway.example.org"]


@pytest.mark.parametrize("action", ["save", "publish"])
@pytest.mark.parametrize("fault", [StoreError("the disk is full"), RuntimeError("the library has a fault")])
async def test_a_failed_renewal_keeps_the_certificate_is_logged_and_is_retried(
    fault: Exception, action: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate in use stays, `warnings` has the error, and the task goes on until it succeeds."""
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("federation.server.transport.server_certificate.CHECK_S", 0.01)
    hands, sink = ManualClock(), CertificateSink()
    certificate = kept(hands, sink)
    old = certificate.authority
    hands.advance(DAY_S * 0.75)
    sink.faults[action] = fault
    running = asyncio.create_task(certificate.run(sink.publish))

    await eventually(lambda: sink.attempts >= 3)

    assert certificate.authority is old
    assert certificate.warnings == (f"this gateway's server certificate cannot be renewed: {fault}",)
    assert str(fault) in caplog.text
    assert isinstance(fault, RuntimeError) or caplog.text.count(str(fault)) == 1
    assert [act for act, _ in sink.acts if act == "shown"] == []

    sink.faults.clear()
    await eventually(lambda: certificate.warnings == ())
    assert certificate.authority is not old
    await cancel_and_wait(running)


async def test_no_certificate_outlives_the_authority() -> None:
    """Near the authority's end the operator is warned, and the certificate is not renewed repeatedly."""
    hands, sink = ManualClock(), CertificateSink()
    certificate = kept(hands, sink)
    hands.advance(CA_LIFETIME.total_seconds() - 3_600)
    assert await certificate.refresh()
    hands.advance(3_000)

    assert not await certificate.refresh()
    assert "authority ends on" in certificate.warnings[0]
    ca = x509.load_pem_x509_certificate(certificate.authority.ca_certificate_pem.encode())
    leaf = x509.load_pem_x509_certificate(certificate.authority.server_certificate_pem.encode())
    assert leaf.not_valid_after_utc == ca.not_valid_after_utc


async def test_a_stored_certificate_is_there_at_the_next_start(database: Database) -> None:
    """Certificate and key go together; the authority stays."""
    first = Authority.create(NAME)
    await save_identity(database, SEALER, first)
    second = first.with_server(("127.0.0.1",))
    await save_server_certificate(database, SEALER, second)

    assert await load_identity(database, SEALER) == second


def test_material_that_peers_would_refuse_is_never_shown() -> None:
    """Expired, not yet valid, or of an authority outside the trust bundle."""
    long_ago, ahead = (Clock(wall=lambda days=days: time.time() + days * DAY_S) for days in (-400, 10))
    good = Authority.create(NAME)

    class Foreign:
        server_certificate_pem, server_key_pem = good.server_certificate_pem, good.server_key_pem
        trust_bundle = Authority.create(NAME).trust_bundle

    material = TlsMaterial(good)
    for bad, words in (
        (Authority.create(NAME, clock=long_ago), "not valid now"),
        (Authority.create(NAME, clock=ahead), "not valid now"),
        (Foreign(), "not issued by an authority"),
    ):
        with pytest.raises(ConfigError, match=words):
            material.publish(bad)


def _shown(address: str) -> str:
    host, _, port = address.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)))
    return serial_of(x509.load_pem_x509_certificate(pem.encode()))


async def test_a_gateway_that_slept_starts_with_a_fresh_certificate_and_changes_it_while_it_serves(
    short_path: Path,
) -> None:
    """At the start what is due is renewed; later a renewal reaches new connections without a restart."""
    directory = short_path / "work"
    config = GatewayConfig(directory=directory, name=NAME, listen="127.0.0.1:0", enroll="127.0.0.1:0")
    asleep = Clock(wall=lambda: time.time() - 400 * DAY_S)
    created = await init_gateway(config, clock=asleep)

    async with Gateway.open(directory, clock=SYSTEM_CLOCK) as gateway:
        await gateway.start()
        before = await asyncio.to_thread(_shown, gateway.enrollment_address)
        renewed = gateway._certificate.authority
        gateway._certificate._hosts = ("127.0.0.1", "another.example")
        await gateway._certificate.refresh(gateway._server.tls.publish)
        after = await asyncio.to_thread(_shown, gateway.enrollment_address)
        newest = gateway._certificate.authority

    assert renewed.server_certificate_pem != created.server_certificate_pem
    assert before == serial_of(x509.load_pem_x509_certificate(renewed.server_certificate_pem.encode()))
    assert after == serial_of(x509.load_pem_x509_certificate(newest.server_certificate_pem.encode())) != before
