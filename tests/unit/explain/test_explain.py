"""The checks of `status --explain` on instants, failed look-ups and several addresses, without a network."""

import errno
import shlex
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from federation.clock import to_micros
from federation.errors import Action, Actor, InputError, NotFoundError, Remedy
from federation.explain.checks import BrokenLink
from federation.explain.dns_tcp import connect, connect_failure, resolve_failure
from federation.explain.own_certificate import check_own_certificate
from federation.explain.peer_lookup import choose
from federation.explain.refusals import stored_revocation, widen_remedy
from federation.pki.certificates import fingerprint_of
from federation.pki.rotation_policy import Validity, due_at_us
from federation.store.peers import PeerRecord
from mosaic_cli.output.errors import command
from tests.support.clock import ManualClock
from tests.support.pki import Leaf, Pki

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def leaf() -> Leaf:
    """A client certificate of a day from noon on."""
    return Pki().client(now=NOON, begins_in=timedelta(0), ends_in=timedelta(hours=24))


@pytest.fixture
def record(leaf: Leaf) -> PeerRecord:
    """An enrollment of ada at work.example with the certificate."""
    return PeerRecord(
        id="p1",
        name="work",
        user="ada",
        gateway="work.example",
        endpoint="work.example:7443",
        grant_id="g1",
        subject="ada",
        certificate_pem=leaf.certificate_pem,
        key_pem=leaf.key_pem,
        trust_bundle="",
        created_at_us=0,
    )


def certificate_detail(record: PeerRecord, at: datetime, *, serving: bool = False) -> str:
    """Return the detail for a certificate that is valid at an instant."""
    _, detail = check_own_certificate(record, ManualClock(at.timestamp()).clock, serving=serving)
    return detail


def test_an_own_certificate_holds_from_its_first_instant_to_its_last(record: PeerRecord) -> None:
    """As for gRPC channels, the certificate is invalid at the instant of its end."""
    end = NOON + timedelta(hours=24)

    assert "valid until 2026-06-02 12:00:00 UTC, renewed at 2026-06-02 " in certificate_detail(record, NOON)
    assert "valid until" in certificate_detail(record, end - timedelta(seconds=1))
    with pytest.raises(BrokenLink, match="ended at 2026-06-02 12:00:00 UTC, and this machine's clock says 2026-06"):
        certificate_detail(record, end)
    with pytest.raises(BrokenLink, match="is valid from 2026-06-01 12:00:00 UTC on"):
        certificate_detail(record, NOON - timedelta(seconds=1))


def test_a_due_renewal_is_reported(record: PeerRecord, leaf: Leaf) -> None:
    """The detail says since when; if the gateway is not running, it says so."""
    validity = Validity(to_micros(NOON), to_micros(NOON + timedelta(hours=24)), fingerprint_of(leaf.certificate))
    due = datetime.fromtimestamp(due_at_us(validity) / 1e6, UTC)

    before, after = due - timedelta(seconds=2), due + timedelta(seconds=2)
    assert "renewed at" in certificate_detail(record, before)
    assert certificate_detail(record, after, serving=True).endswith(
        f"its renewal is due since {due:%Y-%m-%d %H:%M:%S} UTC"
    )
    assert certificate_detail(record, after).endswith("and the gateway does not run")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "no machine has the name h.example: Name or"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "cannot be looked up at present: Temporary failure"),
        (OSError("odd"), "no machine has the name h.example: odd"),
    ],
    ids=["unknown", "no name server", "anything else"],
)
def test_failed_look_ups_are_told_apart(record: PeerRecord, error: OSError, message: str) -> None:
    """An unknown name is the peer's fault, a failing resolver this machine's."""
    fault = resolve_failure(record, "h.example", error)

    assert message in fault.cause
    assert ("/etc/resolv.conf" in fault.cure) == (getattr(error, "errno", 0) == socket.EAI_AGAIN)


@pytest.mark.parametrize(
    ("failed", "message"),
    [
        ({"::1": errno.ENETUNREACH, "192.0.2.1": errno.ECONNREFUSED, "192.0.2.2": -1}, "refuses connections"),
        ({"::1": errno.ENETUNREACH, "192.0.2.1": -1}, "does not answer"),
        ({"::1": errno.ENETUNREACH, "192.0.2.1": errno.ETIMEDOUT}, "does not answer"),
        ({"::1": errno.ENETUNREACH, "192.0.2.1": errno.EPERM}, "no route to"),
        ({"192.0.2.1": errno.EPERM}, "cannot connect to work.example:7443 (192.0.2.1: EPERM)"),
    ],
    ids=["refused", "silent", "given up", "unreachable", "forbidden"],
)
def test_the_most_informative_address_decides(record: PeerRecord, failed: dict[str, int], message: str) -> None:
    """A refusal tells more than a timeout, and a timeout more than a missing route; every address is listed."""
    fault = connect_failure(record, failed, 2.0)

    assert message in fault.cause
    assert all(address in fault.cause for address in failed)


def test_an_unsupported_address_family_is_a_broken_link(record: PeerRecord) -> None:
    """An address of a family without sockets counts as one that cannot be reached."""
    with pytest.raises(BrokenLink, match=r"work\.example:7443"):
        connect(record, [(socket.AddressFamily.AF_APPLETALK, ("x", 1))], 1.0)


def test_an_enrollment_is_chosen_by_name_and_where_needed_by_user(record: PeerRecord) -> None:
    """`user` is needed only with several users; an unknown name gives near matches."""
    other = replace(record, user="bob")

    assert choose([record], "work") is record
    assert choose([record, other], "work", "bob") is other
    with pytest.raises(InputError, match="ada, bob are enrolled at work; say which") as several:
        choose([other, record], "work")
    assert several.value.remedy == Remedy(action=Action.CHOOSE_USER)
    with pytest.raises(NotFoundError, match="did you mean work"):
        choose([record], "wrok")
    with pytest.raises(NotFoundError, match="did you mean bob"):
        choose([record, other], "work", "bobb")
    with pytest.raises(NotFoundError, match="enrolled: ada"):
        choose([record], "work", "zzz")
    with pytest.raises(NotFoundError, match="enroll this gateway at it with a token") as unknown:
        choose([], "work")
    assert unknown.value.remedy == Remedy(action=Action.ADD_PEER)


def test_the_remedy_of_a_stored_revocation_replaces_the_peer(record: PeerRecord) -> None:
    """The operator of this gateway replaces the peer by a token that the peer's operator has given already."""
    revoked = stored_revocation(replace(record, revoked_at_us=1))

    assert revoked is not None
    assert revoked.remedy == Remedy(action=Action.REPLACE_PEER, peer="work", user="ada", grant_id="g1")


def test_the_peers_operator_widens_a_grant(record: PeerRecord) -> None:
    """The remedy is for the operator who can edit the scope, and names the grant."""
    assert widen_remedy(record) == Remedy(action=Action.EDIT_SCOPE, actor=Actor.PEER_OPERATOR, grant_id="g1")


def test_commands_quote_the_users_name(record: PeerRecord) -> None:
    """Commands quote a user's name with blanks and quotes for the shell."""
    odd = replace(record, user="ada o'lace; true", revoked_at_us=1)
    revoked = stored_revocation(odd)
    assert revoked is not None
    remedies = [
        resolve_failure(odd, "x.example", OSError()).remedy,
        revoked.remedy,
        odd.remedy(Action.ENROLL_AGAIN),
    ]

    for remedy in remedies:
        assert remedy is not None
        removing, adding = [part for part in command(remedy).split("`") if part.startswith("mosaic federation peer")]
        assert shlex.split(removing)[3:] == ["remove", odd.name, "--user", odd.user]
        assert shlex.split(adding)[3:] == ["add", "--user", odd.user, "TOKEN"]
