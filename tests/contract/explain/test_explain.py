"""The checks of a peer over real sockets: the broken link is named, and later links are not judged."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.errors import Reason, Refusal
from federation.explain.checks import CheckResult, Link, LinkState, first_broken
from federation.explain.dns_tcp import connect
from federation.explain.run import run_checks
from federation.explain.tls_handshake import client_context, temp_cert_chain
from federation.store.peers import PeerRecord
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import INSTANCE
from mosaic_cli.output.errors import advised
from tests.support.network_faults import Relay, closed_port
from tests.support.pki import CLIENT_AUTH, GRANT_ID, SERVER_AUTH, Leaf, LeafSpec, Pki, server_credentials
from tests.support.scripted import Reply, ScriptedPeer

ENDED = {"begins_in": timedelta(hours=-25), "ends_in": timedelta(hours=-1)}
TO_COME = {"begins_in": timedelta(hours=1), "ends_in": timedelta(hours=25)}


class Checked:
    """All results of the checks of a peer."""

    def __init__(self, record: PeerRecord, **options: Any) -> None:
        self.steps = list(run_checks(record, **options))
        assert [step.link for step in self.steps] == list(Link)

    def __getitem__(self, link: Link) -> CheckResult:
        return next(step for step in self.steps if step.link is link)

    @property
    def states(self) -> str:
        """One letter a link: o, b or n."""
        return "".join(step.state.value[0] for step in self.steps)

    @property
    def named(self) -> tuple[str, str, str]:
        """Link, cause and remedy of the broken link, the remedy as the command line prints it."""
        step = first_broken(self.steps)
        assert step is not None, self.steps
        assert step.fault is not None
        return step.link.value, step.fault.cause, advised(step.fault.cure, step.fault.remedy)


@contextmanager
def tls_server(
    leaf: Leaf,
    roots: str = "",
    *,
    alpn: bool = True,
    answer: bytes = b"",
    handshake_done: bool = False,
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
) -> Iterator[str]:
    """A server of the standard library, which sends the alerts that gRPC's keeps to itself; yield its endpoint.

    It says `answer` and nothing else; once it was greeted, where it waits for that.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    with temp_cert_chain(leaf.certificate_pem, leaf.key_pem) as (path, password):
        context.load_cert_chain(path, password=password)
    if roots:
        context.load_verify_locations(cadata=roots)
        context.verify_mode = ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols(["h2"])
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.settimeout(5)
                try:
                    tls = context.wrap_socket(connection, server_side=True)
                    kept.append(tls)
                    if not handshake_done or tls.recv(1):
                        tls.sendall(answer)
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    for one in kept:
        one.close()


@contextmanager
def grpc_server(credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """A gRPC server without any service; yield its endpoint."""
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full, so that packets to it vanish."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = int(listener.getsockname()[1])
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
        for filler in fillers:
            filler.close()


def test_every_link_to_a_good_peer_holds(scripted: ScriptedPeer) -> None:
    """Each link has its time, no row content is shown, and the calls leave no lease."""
    checked = Checked(scripted.record())

    assert checked.states == "oooooo"
    assert all(step.took_ms is not None and step.took_ms > 0 for step in checked.steps)
    assert checked[Link.DNS].detail == "127.0.0.1 is an IP address; there is no name to look up"
    assert checked[Link.TLS].detail.startswith("TLSv1.3, the certificate is work.example's, valid until 20")
    assert f"{GRANT_ID} opens tasks" in checked[Link.GRANT].detail
    assert not any("report" in step.detail or "t1" in step.detail for step in checked.steps)
    assert [(seen.verb, seen.header(INSTANCE)) for seen in scripted.service.seen] == [
        ("capabilities", []),
        ("list", []),
    ]
    assert scripted.service.seen[1].request == pb.ListRequest(resource="tasks", page_size=1)


def test_a_name_is_looked_up(scripted: ScriptedPeer) -> None:
    """The addresses of a host name are told."""
    checked = Checked(replace(scripted.record(), endpoint=f"localhost:{scripted.port}"))

    assert checked.states == "oooooo"
    assert checked[Link.DNS].detail.startswith("localhost is ")
    assert "127.0.0.1" in checked[Link.DNS].detail


def test_a_wrong_host_is_named(scripted: ScriptedPeer) -> None:
    """Links after DNS are not checked, except the own certificate, which needs no network."""
    checked = Checked(replace(scripted.record(), endpoint="no-such-machine.invalid:7443"), timeout_s=20)

    link, cause, cure = checked.named
    assert checked.states == "bnnonn"
    assert (link, "no-such-machine.invalid" in cause) == ("dns", True)
    assert "`advertise`" in cure
    assert checked[Link.TCP].took_ms is None


@pytest.mark.parametrize("endpoint", ["work.example", "work.example:http", "", ":7443", "a b:1"])
def test_an_endpoint_that_is_no_address_is_named(scripted: ScriptedPeer, endpoint: str) -> None:
    """An odd stored endpoint ends in a broken first link, never in a trace."""
    assert Checked(replace(scripted.record(), endpoint=endpoint)).named[0] == "dns"


def test_a_resolver_that_says_nothing_is_waited_for_once(
    scripted: ScriptedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's look-up cannot be cancelled; the checks continue after the timeout."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
    began = time.monotonic()
    checked = Checked(replace(scripted.record(), endpoint="slow.example:7443"), timeout_s=0.2)
    over.set()

    assert time.monotonic() - began < 5
    assert checked.named[0] == "dns"
    assert "no answer within 0.2 s" in checked.named[1]


def test_a_closed_port_is_named(scripted: ScriptedPeer) -> None:
    """A refusal tells that the machine is there and the gateway is not."""
    checked = Checked(replace(scripted.record(), endpoint=f"127.0.0.1:{closed_port()}"))

    link, cause, cure = checked.named
    assert checked.states == "obnonn"
    assert (link, "refuses connections" in cause) == ("tcp", True)
    assert cure.endswith("and whether it runs: `mosaic gateway serve` there")


def test_a_black_hole_is_named_and_not_mistaken_for_a_closed_port(scripted: ScriptedPeer) -> None:
    """If packets are dropped, the check waits one timeout and names the firewall."""
    with full_port() as port:
        began = time.monotonic()
        checked = Checked(replace(scripted.record(), endpoint=f"127.0.0.1:{port}"), timeout_s=0.4)

    link, cause, cure = checked.named
    assert 0.4 <= time.monotonic() - began < 5
    assert (link, "does not answer" in cause, "firewall" in cure) == ("tcp", True, True)


def test_a_missing_route_is_named(scripted: ScriptedPeer) -> None:
    """A missing route is a fault of this machine."""
    link, cause, _ = Checked(replace(scripted.record(), endpoint="255.255.255.255:7443")).named

    assert (link, "no route to" in cause) == ("tcp", True)


def test_one_address_of_many_is_enough(scripted: ScriptedPeer) -> None:
    """All addresses are tried at once: neither a closed one nor a silent one is waited for."""
    record = scripted.record()
    with full_port() as silent, socket.create_server(("127.0.0.1", 0)) as listener:
        addresses = [("127.0.0.2", closed_port()), ("127.0.0.1", silent), listener.getsockname()]
        began = time.monotonic()
        connection, detail = connect(record, [(socket.AF_INET, address) for address in addresses], 5.0)
        connection.close()

    assert time.monotonic() - began < 2
    assert connection.fileno() == -1
    assert detail.startswith("127.0.0.1 port ")
    assert "127.0.0.2: refused" in detail


def test_a_port_that_accepts_and_is_silent_is_named(scripted: ScriptedPeer, silent_port: Relay) -> None:
    """The connection holds, the handshake does not."""
    link, cause, _ = Checked(replace(scripted.record(), endpoint=silent_port.endpoint), timeout_s=0.3).named

    assert (link, "accepts connections, but sends nothing (0.3 s)" in cause) == ("tls", True)


def test_silence_after_the_handshake_is_named(scripted: ScriptedPeer) -> None:
    """A peer that completes TLS but sends no HTTP/2 does not pass."""
    with tls_server(scripted.pki.server("work.example")) as endpoint:
        link, cause, _ = Checked(replace(scripted.record(), endpoint=endpoint), timeout_s=0.3).named

    assert (link, "then sends nothing" in cause) == ("tls", True)


def test_a_peer_that_waits_for_the_client_preface_gets_it(scripted: ScriptedPeer) -> None:
    """A server may send its first bytes after the client's; its handshake passes."""
    with tls_server(scripted.pki.server("work.example"), answer=b"settings", handshake_done=True) as endpoint:
        checked = Checked(replace(scripted.record(), endpoint=endpoint), timeout_s=0.4)

    assert checked[Link.TLS].state is LinkState.OK


def test_a_plain_port_is_named(scripted: ScriptedPeer) -> None:
    """A server without TLS is told from one with another certificate."""
    with grpc_server() as endpoint:
        link, cause, cure = Checked(replace(scripted.record(), endpoint=endpoint)).named

    assert (link, "does not speak TLS" in cause, "`listen`" in cure) == ("tls", True, True)


def test_a_server_that_is_not_http2_is_named(scripted: ScriptedPeer) -> None:
    """A proxy that terminates TLS and speaks another protocol cannot carry gRPC."""
    with tls_server(scripted.pki.server("work.example"), alpn=False, answer=b"hello") as endpoint:
        link, cause, _ = Checked(replace(scripted.record(), endpoint=endpoint)).named

    assert (link, "not HTTP/2" in cause) == ("tls", True)


@pytest.mark.parametrize("other", [Pki(), Pki("another.example")], ids=["of the same name", "of another name"])
def test_an_authority_that_is_not_the_peers_is_named(scripted: ScriptedPeer, other: Pki) -> None:
    """The server's chain ends at another authority; the cause describes the certificate."""
    checked = Checked(replace(scripted.record(), trust_bundle=other.trust_bundle))

    link, cause, cure = checked.named
    assert checked.states == "oobonn"
    assert (link, "(unknown CA)" in cause) == ("tls", True)
    assert "it shows a certificate for work.example, 127.0.0.1, issued by CN=root of stranger.example" in cause
    assert "set up again" in cure


def test_an_own_certificate_of_another_authority_is_named(scripted: ScriptedPeer) -> None:
    """The peer only closes the connection; that the certificate is not of its authority can be seen here."""
    checked = Checked(scripted.record(identity=Pki().client()))

    link, cause, cure = checked.named
    assert checked.states == "oobonn"
    assert (link, "refuses this gateway's own certificate" in cause, "(unknown CA)" in cause) == ("tls", True, True)
    assert "peer add --user ada TOKEN" in cure


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_peers_alert_is_told(scripted: ScriptedPeer, newest: ssl.TLSVersion) -> None:
    """A server that sends one is quoted: within the handshake, or after it as TLS 1.3 has it."""
    with tls_server(scripted.pki.server("work.example"), Pki("x.example").trust_bundle, newest=newest) as endpoint:
        link, cause, cure = Checked(replace(scripted.record(), endpoint=endpoint)).named

    assert (link, "(TLS alert unknown ca)" in cause) == ("tls", True)
    assert "authority was replaced" in cure


def test_a_tls12_peer_without_faults_holds(scripted: ScriptedPeer) -> None:
    """In TLS 1.2 the server checks the certificate before the handshake ends; the detail names the version."""
    leaf, roots = scripted.pki.server("work.example"), scripted.pki.trust_bundle
    with tls_server(leaf, roots, answer=b"settings", newest=ssl.TLSVersion.TLSv1_2) as endpoint:
        checked = Checked(replace(scripted.record(), endpoint=endpoint), timeout_s=0.5)

    assert checked[Link.TLS].state is LinkState.OK
    assert checked[Link.TLS].detail.startswith("TLSv1.2, the certificate is work.example's")


def test_a_tls12_peer_does_not_hide_an_expired_own_certificate(scripted: ScriptedPeer) -> None:
    """The broken link is the own certificate."""
    leaf, roots = scripted.pki.server("work.example"), scripted.pki.trust_bundle
    with tls_server(leaf, roots, newest=ssl.TLSVersion.TLSv1_2) as endpoint:
        record = replace(scripted.record(identity=scripted.pki.client(**ENDED)), endpoint=endpoint)
        checked = Checked(record, timeout_s=0.5)

    assert (checked.states, checked.named[0]) == ("ooobnn", "certificate")


def test_a_tls12_peer_that_only_closes_is_understood(scripted: ScriptedPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gRPC server sends no alert: with TLS 1.2 its end of the handshake is its judgement of the own certificate."""

    def older(record: PeerRecord) -> ssl.SSLContext:
        context = client_context(record)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    monkeypatch.setattr("federation.explain.run.client_context", older)
    stranger = Checked(scripted.record(identity=Pki().client()))
    ended = Checked(scripted.record(identity=scripted.pki.client(**ENDED)))

    link, cause, _ = stranger.named
    assert (link, "refuses this gateway's own certificate" in cause, "(unknown CA)" in cause) == ("tls", True, True)
    assert (ended.states, ended.named[0]) == ("ooobnn", "certificate")


def test_a_refusal_without_a_fault_here_points_at_the_clocks(scripted: ScriptedPeer) -> None:
    """The certificate is of the right authority and valid by this clock; the peer sees it otherwise."""
    identity = scripted.pki.client(usages=SERVER_AUTH)
    link, cause, cure = Checked(scripted.record(identity=identity)).named

    assert (link, "unknown CA" in cause, cure.startswith("compare `date -u`")) == ("tls", False, True)


def test_another_gateway_at_the_address_is_named(scripted: ScriptedPeer) -> None:
    """The name that counts is the gateway's, not the host's."""
    link, cause, _ = Checked(replace(scripted.record(), gateway="lab.example")).named

    assert (link, "is not for the name lab.example (name mismatch)" in cause) == ("tls", True)
    assert "it shows a certificate for work.example" in cause


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pki: pki.server("work.example", **ENDED), "has expired"),
        (lambda pki: pki.server("work.example", **TO_COME), "is not valid yet"),
        (lambda pki: pki.leaf(LeafSpec(names=("work.example",), usages=CLIENT_AUTH)), "not a server certificate"),
    ],
    ids=["expired", "not yet valid", "of a client"],
)
def test_a_server_certificate_that_cannot_serve_is_named(
    scripted: ScriptedPeer, make: Callable[[Pki], Leaf], message: str
) -> None:
    """Each fault of the peer's certificate has a cause of its own."""
    credentials = server_credentials(make(scripted.pki), scripted.pki.trust_bundle)
    with grpc_server(credentials) as endpoint:
        link, cause, _ = Checked(replace(scripted.record(), endpoint=endpoint)).named

    assert (link, message in cause) == ("tls", True)


def test_a_stored_authority_that_cannot_be_read_is_named(scripted: ScriptedPeer) -> None:
    """A damaged store ends in a broken link, never in a trace."""
    link, cause, _ = Checked(replace(scripted.record(), trust_bundle="nonsense")).named

    assert (link, "cannot be read" in cause) == ("tls", True)


@pytest.mark.parametrize("serving", [True, False])
def test_an_expired_own_certificate_is_named_although_the_handshake_fails_of_it(
    scripted: ScriptedPeer, serving: bool
) -> None:
    """The peer's side holds, so the cause is named where it lies; a gateway that runs can renew at once."""
    checked = Checked(scripted.record(identity=scripted.pki.client(**ENDED)), serving=serving)

    link, cause, cure = checked.named
    assert checked.states == "ooobnn"
    assert (link, "own certificate ended at 20" in cause) == ("certificate", True)
    assert ("peer rotate work.example --user ada" in cure, "mosaic gateway serve" in cure) == (serving, not serving)
    assert "because of this gateway's certificate" in checked[Link.TLS].detail
    assert scripted.service.calls() == 0


def test_an_own_certificate_that_expired_long_ago_needs_a_new_token(scripted: ScriptedPeer) -> None:
    """Seven days after its end it cannot be renewed any more."""
    long_ago = {"begins_in": timedelta(days=-9), "ends_in": timedelta(days=-7, seconds=-5)}
    barely = {"begins_in": timedelta(days=-9), "ends_in": timedelta(days=-7, minutes=1)}

    late = Checked(scripted.record(identity=scripted.pki.client(**long_ago)), serving=True).named
    in_time = Checked(scripted.record(identity=scripted.pki.client(**barely)), serving=True).named

    assert (late[0], "peer add --user ada TOKEN" in late[2], "rotate" in late[2]) == ("certificate", True, False)
    assert (in_time[0], "peer rotate" in in_time[2]) == ("certificate", True)


def test_an_own_certificate_of_the_future_points_at_the_clock(scripted: ScriptedPeer) -> None:
    """If this clock is behind, the certificate is not valid yet."""
    link, cause, cure = Checked(scripted.record(identity=scripted.pki.client(**TO_COME))).named

    assert (link, "is valid from 20" in cause, "`date -u`" in cure) == ("certificate", True, True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"certificate_pem": "nonsense"}, "cannot be read"),
        ({"key_pem": "nonsense"}, "cannot be read"),
        ({"key_pem": Pki().client().key_pem}, "does not match the stored key"),
    ],
    ids=["certificate", "key", "another key"],
)
def test_an_own_certificate_that_cannot_be_shown_is_named(
    scripted: ScriptedPeer, damage: dict[str, str], message: str
) -> None:
    """The peer gets none and closes; what is named is the damage here."""
    checked = Checked(replace(scripted.record(), **damage))

    assert checked.states == "ooobnn"
    assert checked.named[0] == "certificate"
    assert message in checked.named[1]


def test_the_first_broken_link_is_named_and_the_own_certificate_checked_nevertheless(scripted: ScriptedPeer) -> None:
    """A closed port comes first; that the certificate has ended as well is shown."""
    record = scripted.record(identity=scripted.pki.client(**ENDED))
    checked = Checked(replace(record, endpoint=f"127.0.0.1:{closed_port()}"))

    assert checked.states == "obnbnn"
    assert checked.named[0] == "tcp"


def test_an_expired_own_certificate_does_not_hide_a_wrong_authority(scripted: ScriptedPeer) -> None:
    """Only what fails because of the own certificate is put down to it."""
    record = scripted.record(identity=scripted.pki.client(**ENDED))

    assert Checked(replace(record, trust_bundle=Pki().trust_bundle)).named[0] == "tls"


def test_another_port_of_the_gateway_is_named(scripted: ScriptedPeer) -> None:
    """A gRPC server without the federation service, as on the enrollment port, is told by the grant's call."""
    with grpc_server(server_credentials(scripted.pki.server("work.example"))) as endpoint:
        link, cause, cure = Checked(replace(scripted.record(), endpoint=endpoint)).named

    assert (link, "does not serve the federation" in cause, "not `enroll`" in cure) == ("grant", True, True)


@pytest.mark.parametrize(
    ("reason", "cause", "cure"),
    [
        (Reason.GRANT_REVOKED, f"has revoked the grant {GRANT_ID}: so it is", "new grant and its token"),
        (Reason.GRANT_INVALID, "awaits its confirmation", f"grant show {GRANT_ID}"),
        (Reason.CERTIFICATE_INVALID, "does not accept this gateway's own certificate: so it is", "`date -u`"),
        (Reason.INTERNAL, "had an internal error: so it is", "incident's id"),
    ],
)
def test_a_refused_grant_is_named(scripted: ScriptedPeer, reason: Reason, cause: str, cure: str) -> None:
    """Each reason of the peer has its cause and its cure, and the verb is not tried."""
    scripted.service.script("capabilities", Reply(refusal=Refusal(reason, "so it is")))
    checked = Checked(scripted.record())

    assert checked.states == "oooobn"
    assert checked.named[0] == "grant"
    assert cause in checked.named[1]
    assert cure in checked.named[2]
    assert scripted.service.calls("list") == 0


def test_a_peers_message_cannot_control_the_terminal(scripted: ScriptedPeer) -> None:
    """The peer's message is made printable and short."""
    scripted.service.script("capabilities", Reply(refusal=Refusal(Reason.GRANT_REVOKED, "\x1b[2J" + "x" * 900)))
    cause = Checked(scripted.record()).named[1]

    assert "\x1b" not in cause
    assert len(cause) < 500


def test_a_call_that_hangs_is_given_up(scripted: ScriptedPeer) -> None:
    """If the gateway does not answer a call, the check ends after one timeout with the cause."""
    scripted.service.script("capabilities", Reply(delay_s=30))
    began = time.monotonic()
    link, cause, _ = Checked(scripted.record(), timeout_s=0.5).named

    assert time.monotonic() - began < 3
    assert (link, "did not answer the call within 0.5 s" in cause) == ("grant", True)


def test_a_proxy_that_only_grpc_uses_is_named(scripted: ScriptedPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain connection holds and gRPC's does not: the environment sends it elsewhere."""
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port()}")
    link, cause, cure = Checked(scripted.record()).named

    assert (link, "although a plain connection can" in cause) == ("grant", True)
    assert "$https_proxy: set no_proxy=127.0.0.1" in cure


def test_a_rate_limit_is_the_verbs_even_where_the_grants_call_meets_it(scripted: ScriptedPeer) -> None:
    """The peer applies its rate limit before it checks the grant, so the grant is not checked."""
    limited = Refusal(Reason.RATE_LIMITED, "more than 2 calls a minute", retry_after_s=12.5)
    scripted.service.script("capabilities", Reply(refusal=limited))
    checked = Checked(scripted.record())

    assert checked.states == "oooonb"
    assert checked.named[0] == "verb"
    assert checked.named[2].startswith("wait 12.5 s;")
    assert "before it checks the grant" in checked[Link.GRANT].detail


@pytest.mark.parametrize(
    ("refusal", "cause"),
    [
        (Refusal(Reason.RATE_LIMITED, "too many", retry_after_s=3), "limits the calls"),
        (Refusal(Reason.INTERNAL, "internal error; incident 0123"), "incident 0123"),
        (Refusal(Reason.INVALID_REQUEST, "resource: odd"), "rejects the request as malformed: resource: odd"),
        (Refusal(Reason.ROW_NOT_FOUND, "odd"), "answered NOT_FOUND: odd"),
        (Refusal(Reason.SCOPE_VIOLATION, "no"), "does not name the resource task; did you mean tasks?"),
    ],
    ids=lambda value: value.reason.value if isinstance(value, Refusal) else "",
)
def test_a_refused_verb_is_named(scripted: ScriptedPeer, refusal: Refusal, cause: str) -> None:
    """The grant passes, and the cause quotes the peer's refusal of the read."""
    scripted.service.script("list", Reply(refusal=refusal))
    checked = Checked(scripted.record(), resource="task")

    assert checked.states == "ooooob"
    assert checked.named[0] == "verb"
    assert cause in checked.named[1]


def test_a_grant_that_opens_nothing_is_named(scripted: ScriptedPeer) -> None:
    """A grant that opens no resource breaks the verb link."""
    scripted.service.script("capabilities", Reply(message=pb.CapabilitiesResponse(gateway="work.example")))
    link, cause, _ = Checked(scripted.record()).named

    assert (link, "opens no resource" in cause) == ("verb", True)
    assert scripted.service.calls("list") == 0


def test_a_revocation_that_this_gateway_remembers_is_final(scripted: ScriptedPeer) -> None:
    """A stored revocation breaks the grant link, also if the peer cannot be reached."""
    record = replace(scripted.record(), revoked_at_us=1_800_000_000_000_000, revoked_reason="project over")
    reached = Checked(record)
    away = Checked(replace(record, endpoint=f"127.0.0.1:{closed_port()}"))

    assert (reached.states, away.states) == ("oooobn", "obnobn")
    assert (reached.named[0], away.named[0]) == ("grant", "tcp")
    assert "(received at 2027-01-15 08:00:00 UTC): project over" in reached.named[1]
    assert away[Link.GRANT].state is LinkState.BROKEN
    assert scripted.service.calls("list") == 0


def test_the_key_is_never_on_disk_in_the_clear(scripted: ScriptedPeer) -> None:
    """The temporary key file is encrypted with a one-time password and removed afterwards."""
    record = scripted.record()
    with temp_cert_chain(record.certificate_pem, record.key_pem) as (path, _):
        text = Path(path).read_text()

    assert "ENCRYPTED PRIVATE KEY" in text
    assert "BEGIN PRIVATE KEY" not in text
    assert not Path(path).exists()
