"""Errors on the admin socket: out as a status, back as the same error."""

from collections.abc import Sequence
from dataclasses import replace

import grpc
import pytest

from federation import errors
from federation.admin.errors import error_of, status_of, status_of_exception
from federation.errors import (
    Action,
    Actor,
    FederationError,
    InputError,
    LineFault,
    NotFoundError,
    Reason,
    Refusal,
    Remedy,
)


class Answer(grpc.RpcError):
    """An error as a stub raises it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, str | bytes]] = ()) -> None:
        self._code, self._details, self._trailing = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        return self._trailing


def converted(error: FederationError) -> FederationError:
    """Convert an error to a status and back."""
    return error_of(Answer(*status_of(error)))


SAMPLES = [
    errors.ConfigError("listen", "is taken"),
    errors.InputError("scope.resources", "name at least one"),
    errors.NotFoundError("peer", "wrok.example", ("work.example",)),
    errors.NotFoundError("grant", "x", (), "list the grants", remedy=Remedy(action=Action.LIST_GRANTS)),
    errors.ConflictError("it is there already"),
    errors.GatewayUnavailableError("nobody answers"),
    errors.LockedError("served already"),
    errors.StoreError("the disk is full"),
    errors.SealError("another key"),
    errors.EnrollmentError("refused"),
    errors.ImportFailedError((LineFault(3, "owner", "unknown user"),), 12),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_crosses_the_socket_with_its_type_and_message(error: FederationError) -> None:
    """The operator's side raises the error that the gateway raised."""
    back = converted(error)

    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.remedy == error.remedy


def test_every_error_of_the_package_has_a_sample_here() -> None:
    """Every error class has a sample, so a new class cannot be forgotten."""
    internal = {errors.ChangesLostError, errors.UnknownReferencesError}
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FederationError)}

    assert kinds - {FederationError, Refusal} - internal == {type(error) for error in SAMPLES}


def test_fields_cross_the_socket() -> None:
    """The client's error has the field and the name of the gateway's error."""
    field, missing = converted(InputError("user", "is missing")), converted(NotFoundError("user", "adda"))

    assert isinstance(field, InputError)
    assert field.field == "user"
    assert isinstance(missing, NotFoundError)
    assert (missing.what, missing.name) == ("user", "adda")


def test_a_refusal_crosses_with_reason_and_retry_delay() -> None:
    """The client's error has the reason, the message and the retry delay of the refusal."""
    back = converted(Refusal(Reason.RATE_LIMITED, "too many", retry_after_s=2.5))

    assert isinstance(back, Refusal)
    assert (back.reason, back.message, back.retry_after_s) == (Reason.RATE_LIMITED, "too many", 2.5)


REMEDY = Remedy(
    action=Action.SHOW_GRANT, actor=Actor.PEER_OPERATOR, peer="work", user="a b", grant_id="g-1", directory="/x"
)


@pytest.mark.parametrize(
    "error", [errors.ConflictError("no", remedy=REMEDY), Refusal(Reason.INTERNAL, "no", remedy=REMEDY)]
)
def test_a_remedy_crosses_the_socket_as_a_value(error: FederationError) -> None:
    """The client's error has the action and every parameter, and its message has no command."""
    back = converted(error)

    assert back.remedy == REMEDY
    assert str(back) == "no"


def test_a_remedy_whose_parameter_is_too_long_is_left_out() -> None:
    """A truncated parameter would name another user."""
    assert converted(errors.ConflictError("no", remedy=replace(REMEDY, user="u" * 201))).remedy is None


@pytest.mark.parametrize(
    ("action", "parameters"),
    [("", {}), ("DO_MORE", {}), ("SHOW_GRANT", {"actor": "NOBODY"})],
    ids=["none", "action", "actor"],
)
def test_a_remedy_of_another_version_is_none(action: str, parameters: dict[str, str]) -> None:
    """An unknown action or actor yields no remedy; the message still describes the step."""
    assert Remedy.parse(action, parameters) is None


@pytest.mark.parametrize("letter", ["x", "ä", "🙂"])
def test_a_long_message_is_cut_below_what_grpc_carries(letter: str) -> None:
    """No message, in any script, exceeds the metadata size at which gRPC drops the status."""
    code, details, trailing = status_of(InputError("scope", letter * 20_000))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("scope: " + letter)
    assert sum(len(value) for _, value in trailing) < 4_000


def test_unavailable_is_a_gateway_that_is_not_reachable() -> None:
    """UNAVAILABLE from gRPC itself becomes a `GatewayUnavailableError`, which has an exit code of its own."""
    back = error_of(Answer(grpc.StatusCode.UNAVAILABLE, "Socket closed"))

    assert isinstance(back, errors.GatewayUnavailableError)


def test_unimplemented_is_readable() -> None:
    """UNIMPLEMENTED becomes a readable message."""
    back = error_of(Answer(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))

    assert "does not offer this" in str(back)


@pytest.mark.parametrize("junk", [b"", b"\xff\xff", b"\x08\x05"])
def test_junk_in_place_of_a_status_is_survived(junk: bytes) -> None:
    """A status that is not from this package becomes a readable error."""
    back = error_of(Answer(grpc.StatusCode.UNKNOWN, "odd", (("grpc-status-details-bin", junk),)))

    assert str(back) == "UNKNOWN: odd"


def test_an_unforeseen_exception_becomes_an_incident(caplog: pytest.LogCaptureFixture) -> None:
    """The message has the incident id; only the log has the text of the exception."""
    code, message, trailing = status_of_exception(ValueError("secret words"), "/federation.v1.AdminService/Status")

    incident = message.removeprefix("incident ").removesuffix("; the gateway's log says more")
    assert (code, trailing) == (grpc.StatusCode.INTERNAL, ())
    assert len(incident) == 16
    assert f"incident {incident} in /federation.v1.AdminService/Status" in caplog.messages
    assert "secret words" in caplog.text


def test_an_error_of_the_package_is_no_incident(caplog: pytest.LogCaptureFixture) -> None:
    """A `FederationError` has its own status and is not logged."""
    error = NotFoundError("peer", "wrok.example", ("work.example",))

    assert status_of_exception(error, "/federation.v1.AdminService/GetPeer") == status_of(error)
    assert caplog.messages == []
