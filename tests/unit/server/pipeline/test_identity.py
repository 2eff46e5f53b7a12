from datetime import timedelta

import pytest

from federation.clock import to_micros
from federation.errors import Reason, Refusal
from federation.server.pipeline.identity import CallerIdentity, caller_of
from tests.support.pki import GRANT_ID, IDENTITY_FAULTS, Leaf, Pki

NOW_US = 0
PKI = Pki()


def shown(*leaves: Leaf) -> dict[str, list[bytes]]:
    """An auth context as gRPC gives it."""
    return {
        "transport_security_type": [b"ssl"],
        "x509_pem_cert": [leaf.certificate_pem.encode() for leaf in leaves],
    }


def refusal_of(context: dict[str, list[bytes]], now_us: int = NOW_US) -> Refusal:
    """The refusal of an auth context."""
    with pytest.raises(Refusal) as caught:
        caller_of(context, now_us)
    return caught.value


def test_a_valid_certificate_gives_the_whole_identity() -> None:
    """Grant, subject, serial, fingerprint and both instants come out as they went in."""
    leaf = PKI.client(subject="ada")
    before, after = leaf.certificate.not_valid_before_utc, leaf.certificate.not_valid_after_utc

    caller = caller_of(shown(leaf), NOW_US)

    assert caller == CallerIdentity(
        GRANT_ID, "ada", leaf.serial, caller.fingerprint, to_micros(before), to_micros(after)
    )
    assert len(caller.fingerprint) == 64


def test_a_certificate_is_parsed_once() -> None:
    """The second call with the same PEM returns the same object."""
    leaf = PKI.client()

    assert caller_of(shown(leaf), NOW_US) is caller_of(shown(leaf), NOW_US)


@pytest.mark.parametrize("fault", IDENTITY_FAULTS)
def test_a_malformed_identity_is_refused_without_saying_more(fault: str) -> None:
    """Every fault has one answer for the caller and a detail for the gateway's records, also when it is remembered."""
    context = shown(PKI.bad_client(fault))

    first, second = refusal_of(context), refusal_of(context)

    assert (first.reason, first.message) == (second.reason, second.message)
    assert first.reason is Reason.CERTIFICATE_INVALID
    assert "no valid federation identity" in first.message
    assert first.detail == second.detail != ""
    assert first.detail not in first.message


@pytest.mark.parametrize(
    ("context", "detail"),
    [
        ({}, "no client certificate"),
        ({"x509_pem_cert": []}, "no client certificate"),
        (shown(PKI.client(), PKI.client()), "more than one client certificate"),
        ({"x509_pem_cert": [b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]}, ""),
        ({"x509_pem_cert": [b"\xff\x00"]}, ""),
        ({"x509_pem_cert": [b"x" * 20_000]}, "the certificate is too large"),
    ],
)
def test_anything_but_one_certificate_is_refused(context: dict[str, list[bytes]], detail: str) -> None:
    """No certificate, two, or bytes that are none end as a refusal, never as a trace."""
    refusal = refusal_of(context)

    assert refusal.reason is Reason.CERTIFICATE_INVALID
    assert detail in refusal.detail


def test_expiry_counts_at_every_call() -> None:
    """The very instant that the certificate names is too late, also for an identity that is remembered."""
    leaf = PKI.client(ends_in=timedelta(hours=1))
    end_us = to_micros(leaf.certificate.not_valid_after_utc)
    assert caller_of(shown(leaf), end_us - 1).serial == leaf.serial

    refusal = refusal_of(shown(leaf), end_us)

    assert refusal.reason is Reason.CERTIFICATE_INVALID
    assert "expired at" in refusal.message
    assert "renew" in refusal.message
    assert refusal.detail == "certificate expired"
