from dataclasses import replace

import pytest

from federation.errors import Reason, Refusal
from federation.server.pipeline.authorization import authorize
from federation.server.pipeline.identity import CallerIdentity, caller_of
from federation.store.grants.model import Grant, GrantStatus
from tests.support.pki import GRANT_ID, Leaf, Pki
from tests.support.server_in_memory import grant_of, record

NOW_US = 1_750_000_000_000_000
PKI = Pki()
LEAF = PKI.client()
GRANT = grant_of(LEAF)
RETIRED = {LEAF.serial: replace(record(LEAF), accepted_until_us=NOW_US)}
OTHER = {LEAF.serial: replace(record(LEAF), fingerprint="0" * 64)}


def caller(leaf: Leaf = LEAF) -> CallerIdentity:
    """The identity of a certificate."""
    return caller_of({"x509_pem_cert": [leaf.certificate_pem.encode()]}, 0)


def refusal_of(grant: Grant | None, leaf: Leaf = LEAF) -> Refusal:
    """The refusal of a grant."""
    with pytest.raises(Refusal) as caught:
        authorize(grant, caller(leaf), NOW_US)
    return caught.value


def test_an_active_grant_with_its_own_certificate_passes() -> None:
    """The grant is returned unchanged, with or without a later expiry."""
    assert authorize(GRANT, caller(), NOW_US) is GRANT
    assert authorize(replace(GRANT, expires_at_us=NOW_US + 1), caller(), NOW_US).id == GRANT_ID


@pytest.mark.parametrize(
    ("grant", "detail"),
    [
        (None, "unknown grant"),
        (replace(GRANT, status=GrantStatus.PENDING), "grant pending"),
        (replace(GRANT, expires_at_us=NOW_US), "grant expired"),
        (replace(GRANT, subject="eve"), "subject is not the grant's"),
        (replace(GRANT, certificates={}), "unknown serial"),
        (replace(GRANT, certificates=OTHER), "unknown serial"),
        (replace(GRANT, certificates=RETIRED), "retired serial"),
    ],
)
def test_every_other_fault_has_one_answer(grant: Grant | None, detail: str) -> None:
    """Every fault has the same message for the caller, and its own detail for the audit."""
    refusal = refusal_of(grant)

    assert refusal.reason is Reason.GRANT_INVALID
    assert refusal.message == refusal_of(None).message
    assert refusal.detail == detail


def test_only_the_holder_of_a_revoked_grant_learns_that_it_was_revoked() -> None:
    """Only a certificate of the revoked grant gets GRANT_REVOKED; another serial or subject gets GRANT_INVALID."""
    revoked = replace(GRANT, status=GrantStatus.REVOKED)

    assert refusal_of(revoked).reason is Reason.GRANT_REVOKED
    assert refusal_of(revoked, PKI.client()).reason is Reason.GRANT_INVALID
    assert refusal_of(replace(revoked, subject="eve")).reason is Reason.GRANT_INVALID
    assert refusal_of(replace(revoked, certificates=OTHER)).reason is Reason.GRANT_INVALID


def test_a_revoked_grant_that_has_expired_is_still_reported_as_revoked() -> None:
    """Revoked is final: neither the grant's end nor a retired certificate hides it from the holder."""
    revoked = replace(GRANT, status=GrantStatus.REVOKED, expires_at_us=NOW_US - 1, certificates=RETIRED)

    assert refusal_of(revoked).reason is Reason.GRANT_REVOKED
