from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.clock import SYSTEM_CLOCK
from federation.enrollment.verification import CheckedAnswer, check_answer
from federation.pki.authority import Authority
from federation.pki.csr import make_request
from federation.pki.enrollment_token import EnrollmentToken
from federation.v1.enrollment_pb2 import EnrollResponse
from tests.support.pki import GRANT_ID, PEER, SERVER_AUTH, Pki, identity, new_key

AUTHORITY = Authority.create("work.example")
ROOT = Pki.of(AUTHORITY)
STRANGER = Pki()
KEY = new_key()
OTHER_GRANT = "99999999-2222-4333-8444-555555555555"
TOKEN = EnrollmentToken("127.0.0.1:1", AUTHORITY.ca_certificate_pem, "s" * 43, "work.example", GRANT_ID)


def issued(**changes) -> str:
    """A certificate for our key by the right root, with changes."""
    return ROOT.client(**({"key": KEY} | changes)).certificate_pem


def forged() -> str:
    """A certificate for our key with the right issuer's name, signed by another key."""
    forger = Pki.of(AUTHORITY)
    forger._key = new_key()
    return forger.client(key=KEY).certificate_pem


def answer(**changes: str) -> EnrollResponse:
    """A good answer, with changes."""
    values = {
        "certificate": issued(),
        "trust_bundle": AUTHORITY.trust_bundle,
        "grant_id": GRANT_ID,
        "subject": "ada",
        "gateway": "work.example",
        "endpoint": "work.example:7443",
    }
    return EnrollResponse(**(values | changes))


def check(given: EnrollResponse, key: ec.EllipticCurvePrivateKey = KEY, now_us: int | None = None) -> CheckedAnswer:
    """Check an answer as the enrolling side does."""
    return check_answer(given, TOKEN, key.public_key(), now_us or SYSTEM_CLOCK.now_us())


def test_a_valid_answer_is_accepted() -> None:
    """A certificate of the real authority passes, with every field unchanged."""
    csr = make_request(KEY, PEER)
    real = AUTHORITY.issue_client(csr, grant_id=GRANT_ID, subject="ada", peer=PEER, lifetime_s=300)
    checked = check(answer(certificate=real.pem))

    assert (checked.certificate_pem, checked.fingerprint) == (real.pem, real.fingerprint)
    assert checked.trust_bundle == AUTHORITY.trust_bundle


def test_a_bundle_with_two_roots_is_accepted() -> None:
    """A second root, as during the replacement of an authority, is stored beside the pinned one; either may sign."""
    bundle = STRANGER.trust_bundle + AUTHORITY.trust_bundle
    by_second = STRANGER.client(key=KEY).certificate_pem

    assert check(answer(trust_bundle=bundle)).trust_bundle == bundle
    assert check(answer(trust_bundle=bundle, certificate=by_second)).certificate_pem == by_second


def test_text_around_the_pem_is_not_stored() -> None:
    """Only certificates are stored, not what a peer wrote beside them."""
    checked = check(answer(trust_bundle="\x1b[2J hello\n" + AUTHORITY.trust_bundle, certificate=issued()))

    assert checked.trust_bundle == AUTHORITY.trust_bundle


def rsa_leaf() -> str:
    """A certificate of the right root for an RSA key."""
    return ROOT.client(key=rsa.generate_private_key(65537, 2048)).certificate_pem


HOUR = timedelta(hours=1)
BAD: dict[str, tuple[Callable[[], dict[str, str]], str]] = {
    "other gateway": (lambda: {"gateway": "evil.example"}, "comes from the gateway 'evil.example'"),
    "other grant": (
        lambda: {"grant_id": OTHER_GRANT, "certificate": issued(grant_id=OTHER_GRANT)},
        "for another grant than the token's",
    ),
    "grant differs": (lambda: {"certificate": issued(grant_id=OTHER_GRANT)}, "for another grant or subject"),
    "subject differs": (lambda: {"certificate": issued(subject="eve")}, "for another grant or subject"),
    "endpoint": (lambda: {"endpoint": "unix:///x"}, "endpoint 'unix:///x' is not host:port"),
    "port 0": (lambda: {"endpoint": "work.example:0"}, "is not host:port"),
    "no bundle": (lambda: {"trust_bundle": ""}, "trust bundle cannot be read"),
    "broken bundle": (lambda: {"trust_bundle": "-----BEGIN CERTIFICATE-----\nx"}, "trust bundle cannot be read"),
    "huge bundle": (lambda: {"trust_bundle": AUTHORITY.trust_bundle * 9}, "trust bundle cannot be read"),
    "bundle without our root": (
        lambda: {"trust_bundle": STRANGER.trust_bundle, "certificate": STRANGER.client(key=KEY).certificate_pem},
        "lacks the authority that this gateway knows",
    ),
    "leaf in the bundle": (lambda: {"trust_bundle": AUTHORITY.trust_bundle + issued()}, "not an authority's"),
    "no certificate": (lambda: {"certificate": ""}, "certificate cannot be read"),
    "two certificates": (lambda: {"certificate": issued() + issued()}, "more than one certificate"),
    "other key": (lambda: {"certificate": issued(key=new_key())}, "another key"),
    "RSA key": (lambda: {"certificate": rsa_leaf()}, "another key"),
    "other authority of the same name": (lambda: {"certificate": forged()}, "not signed by"),
    "other authority": (lambda: {"certificate": STRANGER.client(key=KEY).certificate_pem}, "not signed by"),
    "for servers": (lambda: {"certificate": issued(usages=SERVER_AUTH)}, "not one for TLS clients"),
    "for both": (
        lambda: {"certificate": issued(usages=(*SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH))},
        "not one for TLS clients",
    ),
    "no usage": (lambda: {"certificate": issued(usages=())}, "not one for TLS clients"),
    "expired": (lambda: {"certificate": issued(begins_in=-2 * HOUR, ends_in=-HOUR)}, "not valid now"),
    "in the future": (lambda: {"certificate": issued(begins_in=HOUR)}, "not valid now"),
    "without end": (lambda: {"certificate": issued(ends_in=timedelta(days=500))}, "longer than 400 days"),
    "no extensions": (lambda: {"certificate": issued(extensions=())}, "grant id extension is missing"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_answer_is_refused(fault: str) -> None:
    """Each thing that an answer may get wrong, or forge, is named."""
    changes, complaint = BAD[fault]

    with pytest.raises(ValueError, match=complaint):
        check(answer(**changes()))


def test_a_doubled_identity_in_an_answer_is_refused() -> None:
    """A certificate with two subject extensions is refused."""
    doubled = ROOT.client(
        key=KEY,
        extensions=(("1.3.6.1.4.1.99999.1", b"\x0c\x24" + GRANT_ID.encode()),) * 2,
    )

    with pytest.raises(ValueError, match="in its certificate, the grant id extension occurs twice"):
        check(answer(certificate=doubled.certificate_pem))


def test_an_authority_as_client_certificate_is_refused() -> None:
    """A certificate that could sign others is no client certificate, even for our own key and identity."""
    authority = issued(extensions=(*identity(), ("2.5.29.19", b"\x30\x03\x01\x01\xff")))

    with pytest.raises(ValueError, match="not one for TLS clients"):
        check(answer(certificate=authority))


def test_an_expired_root_is_refused() -> None:
    """A trust bundle whose root has ended is no trust."""
    later = SYSTEM_CLOCK.now_us() + 20 * 365 * 86_400_000_000
    certificate = issued(now=datetime.now(UTC) + timedelta(days=20 * 365))

    with pytest.raises(ValueError, match="authority of its trust bundle is not valid now"):
        check(answer(certificate=certificate), now_us=later)


def test_an_issuer_a_little_ahead_is_believed() -> None:
    """Clocks may differ by five minutes."""
    slow = SYSTEM_CLOCK.now_us() - 590_000_000

    assert check(answer(), now_us=slow)
    with pytest.raises(ValueError, match="compare both clocks"):
        check(answer(), now_us=slow - 60_000_000)
