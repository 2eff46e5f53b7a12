"""The sources that an argument names, the validation of requests, and the classification of failed calls."""

from dataclasses import dataclass
from typing import Any

import pytest

from federation.config import SessionConfig
from federation.errors import ENROLL_AGAIN, Action, ConfigError, InputError, NotFoundError, Reason, Refusal, Remedy
from federation.session.classification import Classification, NextStep, classify, next_step
from federation.session.results import Result, SourceReport, SourceState
from federation.session.sources import Chosen, choose
from federation.session.validation import RESOURCES, as_input_error, build_request, plain_user, plan_of, validate
from federation.v1 import federation_pb2 as pb


@dataclass(frozen=True)
class At:
    """A peer."""

    name: str
    endpoint: str = "10.0.0.1:7443"


PEERS = [At("lab.example", "lab-host:7443"), At("work.example", "[::1]:7443"), At("twin.example", "lab-host:7999")]


def test_local_and_all() -> None:
    """`local` is one source; `all` is local and each peer, which are named by their own names."""
    assert choose("local", PEERS) == Chosen("local", ("local",))
    assert choose("all", PEERS[:2]) == Chosen("all", ("local", "federated:lab.example", "federated:work.example"))
    assert choose("all", []).names == ("local",)


@pytest.mark.parametrize(
    ("source", "peer"),
    [
        ("federated:work.example", "work.example"),
        ("federated:::1", "work.example"),
        ("federated:[::1]:7443", "work.example"),
        ("federated:lab-host:7999", "twin.example"),
    ],
)
def test_a_peer_is_found_by_name_then_by_host(source: str, peer: str) -> None:
    """A peer selected by host or endpoint is shown by its name."""
    assert choose(source, PEERS) == Chosen(f"federated:{peer}", (f"federated:{peer}",))


def test_a_name_wins_over_a_host() -> None:
    """A peer's name takes precedence over another peer's host."""
    peers = [At("a.example", "b.example:1"), At("b.example", "10.0.0.2:1")]
    assert choose("federated:b.example", peers).argument == "federated:b.example"


def test_a_host_of_several_peers_is_ambiguous() -> None:
    """Two peers at one host: the error names both."""
    with pytest.raises(InputError, match=r"lab\.example and twin\.example"):
        choose("federated:lab-host", PEERS)


def test_an_error_names_few_of_many() -> None:
    """With a thousand peers at one host, the error lists a few."""
    peers = [At(f"p{number}.example", "lab-host:7443") for number in range(1_000)]
    with pytest.raises(InputError, match=r"p4\.example and 995 more") as caught:
        choose("federated:lab-host", peers)
    assert len(str(caught.value)) < 200


def test_an_unknown_peer_gets_near_matches() -> None:
    """The error suggests near matches among this user's peers only."""
    with pytest.raises(NotFoundError, match=r"did you mean work\.example"):
        choose("federated:wrok.example", PEERS)
    with pytest.raises(NotFoundError, match="enroll this gateway at it with a token"):
        choose("federated:work.example", [])


@pytest.mark.parametrize("source", ["", "federated:", "Local", "peers", "work.example"])
def test_an_invalid_source_is_refused_by_its_field(source: str) -> None:
    """Any other argument is refused with the field's name and the valid values."""
    with pytest.raises(InputError, match="federated:PEER") as caught:
        choose(source, PEERS)
    assert caught.value.field == "source"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListRequest(), "resource"),
        (pb.ListRequest(resource="x" * 65), "resource"),
        (pb.ListRequest(resource="taks"), "resource"),
        (pb.ListRequest(resource="tasks", page_size=-1), "page_size"),
        (pb.ListRequest(resource="tasks", where={"": "x"}), "where"),
        (pb.ListRequest(resource="tasks", where={"a": "x" * 2_000}), "where.a"),
        (pb.ListRequest(resource="tasks", where={str(n): "" for n in range(20)}), "where"),
        (pb.ListRequest(resource="tasks", after=pb.ListPosition(id="a")), "after"),
        (pb.GetRequest(resource="tasks"), "id"),
        (pb.GetRequest(resource="", id="x"), "resource"),
        (pb.SearchRequest(query="  "), "query"),
        (pb.SearchRequest(), "query"),
        (pb.SearchRequest(query="x", page_size=-1), "page_size"),
        (pb.SearchRequest(query="x", resources=["taks"]), "resources"),
        (pb.SearchRequest(query="x", resources=["a"] * 17), "resources"),
    ],
)
def test_invalid_input_names_its_field(request_: Any, field: str) -> None:
    """A request out of its bounds never reaches a source."""
    with pytest.raises(InputError) as caught:
        validate(request_, local=True)
    assert caught.value.field == field


def test_a_resource_that_only_a_peer_may_have_is_left_to_the_peer() -> None:
    """Without local data among the sources, an unknown resource goes to the peer; with them, near matches help."""
    validate(pb.ListRequest(resource="calendars"), local=False)
    with pytest.raises(InputError, match=r"known are .*; did you mean tasks\?"):
        validate(pb.ListRequest(resource="task"), local=True)
    for resource in RESOURCES:
        validate(pb.ListRequest(resource=resource), local=True)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"resource": "tasks", "page_size": 1 << 40}, "page_size"),
        ({"resource": "\udcff"}, "resource"),
        ({"resource": "tasks", "where": {"a": 1}}, "where"),
        ({"resource": 7}, "resource"),
    ],
)
def test_a_value_that_no_message_can_hold_names_its_field(fields: dict[str, Any], field: str) -> None:
    """Numbers too large, text that is none and values of another type are faults of their field."""
    with pytest.raises(InputError) as caught:
        build_request(pb.ListRequest, **fields)
    assert caught.value.field == field


def test_odd_users_and_requests_are_refused() -> None:
    """A user must have a name of real text; only the four reading verbs are requests."""
    for user in ("", "\udcff"):
        with pytest.raises(InputError, match="user"):
            plain_user(user)
    with pytest.raises(TypeError, match="WatchRequest"):
        plan_of(pb.WatchRequest(), "ada", "all")  # type: ignore[arg-type]


def test_a_refusal_becomes_the_fault_of_a_field() -> None:
    """`where: …` is a fault of where; words without a field stay whole."""
    assert as_input_error(Refusal(Reason.INVALID_REQUEST, "where: no such field")).field == "where"
    assert as_input_error(Refusal(Reason.INVALID_REQUEST, "odd")).field == "request"


@pytest.mark.parametrize(
    ("code", "reason", "local", "state", "unreachable"),
    [
        ("OK", "", False, SourceState.OK, False),
        ("UNAVAILABLE", "PEER_UNREACHABLE", True, SourceState.OFFLINE, True),
        ("DEADLINE_EXCEEDED", "PEER_TIMEOUT", True, SourceState.OFFLINE, True),
        ("UNAVAILABLE", "CIRCUIT_OPEN", True, SourceState.OFFLINE, True),
        ("UNAUTHENTICATED", "CERTIFICATE_INVALID", True, SourceState.OFFLINE, True),
        ("UNAUTHENTICATED", "CERTIFICATE_INVALID", False, SourceState.DENIED, False),
        ("UNAUTHENTICATED", "", False, SourceState.DENIED, False),
        ("PERMISSION_DENIED", "GRANT_REVOKED", False, SourceState.DENIED, False),
        ("PERMISSION_DENIED", "GRANT_REVOKED", True, SourceState.DENIED, False),
        ("PERMISSION_DENIED", "SCOPE_VIOLATION", False, SourceState.DENIED, False),
        ("PERMISSION_DENIED", "", False, SourceState.DENIED, False),
        ("RESOURCE_EXHAUSTED", "RATE_LIMITED", False, SourceState.RATE_LIMITED, False),
        ("RESOURCE_EXHAUSTED", "", False, SourceState.FAILED, False),
        ("NOT_FOUND", "ROW_NOT_FOUND", False, SourceState.FAILED, False),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", False, SourceState.FAILED, False),
        ("INTERNAL", "INTERNAL", False, SourceState.FAILED, False),
        ("CANCELLED", "", False, SourceState.FAILED, False),
    ],
)
def test_outcomes_are_classified(code: str, reason: str, local: bool, state: SourceState, unreachable: bool) -> None:
    """Each outcome has its state; only unreachable, timeout, open circuit and an ended own certificate mean away."""
    assert classify(code, reason, local=local, verb="list", conclusive=True) == Classification(
        state, reason, unreachable
    )


def test_a_timeout_after_a_short_budget_is_inconclusive() -> None:
    """A timeout after less than the budget does not make the peer unreachable; a failed connection does."""
    assert classify("DEADLINE_EXCEEDED", "PEER_TIMEOUT", local=True, verb="list", conclusive=False) == Classification(
        SourceState.OFFLINE, "PEER_TIMEOUT"
    )
    assert classify("UNAVAILABLE", "PEER_UNREACHABLE", local=True, verb="list", conclusive=False).unreachable


@pytest.mark.parametrize(("code", "word"), [("UNAVAILABLE", "PEER_UNREACHABLE"), ("DEADLINE_EXCEEDED", "PEER_TIMEOUT")])
def test_a_peer_cannot_choose_why_it_is_unreachable(code: str, word: str) -> None:
    """With these codes the session's own reason replaces the peer's."""
    assert classify(code, "INTERNAL", local=False, verb="list", conclusive=True).reason == word


def test_an_absent_row_is_an_answer() -> None:
    """`get` of a row that a source does not have is `ok`, and says so by the reason."""
    result = classify("NOT_FOUND", "ROW_NOT_FOUND", local=False, verb="get", conclusive=True)
    assert result == Classification(SourceState.OK, Reason.ROW_NOT_FOUND)


def test_every_unreachable_reason_has_a_next_step() -> None:
    """A refused connection, a timeout, an open circuit and an expired own certificate have different next steps."""
    steps = {
        next_step(reason, SourceState.OFFLINE, "work.example", "ada")
        for reason in ("PEER_UNREACHABLE", "PEER_TIMEOUT", "CIRCUIT_OPEN", "CERTIFICATE_INVALID")
    }
    assert len({step.text for step in steps}) == 4
    for step in steps:
        assert step.remedy is not None
        assert (step.remedy.peer, step.remedy.user) == ("work.example", "ada")
    denied = next_step("CERTIFICATE_INVALID", SourceState.DENIED, "work.example", "ada")
    again = Remedy(action=Action.ENROLL_AGAIN, peer="work.example", user="ada")
    assert denied == NextStep(ENROLL_AGAIN, again)
    assert next_step("", SourceState.FAILED, "work.example", "ada") == NextStep()
    assert next_step("WHATEVER", SourceState.FAILED, "work.example", "ada") == NextStep()
    asked = next_step("GRANT_INVALID", SourceState.DENIED, "work.example", "ada")
    assert asked == NextStep("ask the operator of work.example whether the grant is valid")


def test_partial_is_when_a_source_is_missing() -> None:
    """Live and cached answers are complete; every other state makes the result partial."""
    for state in SourceState:
        result = Result(sources=(SourceReport(source="local", state=state),))
        assert result.partial is (state not in {SourceState.OK, SourceState.CACHED})
    assert Result().row is None


@pytest.mark.parametrize("setting", ["peer_budget_s", "request_budget_s", "warm_concurrency"])
def test_a_sessions_settings_are_checked(setting: str) -> None:
    """A zero budget or bound is refused with its name."""
    with pytest.raises(ConfigError, match=rf"session\.{setting}"):
        SessionConfig(**{setting: 0})
