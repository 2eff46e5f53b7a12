"""Error messages of the command line. Converts remedies to commands and makes untrusted text printable."""

import re
from collections.abc import Mapping
from shlex import quote
from typing import TYPE_CHECKING, Final

from federation.errors import ENROLL_AGAIN, Action, Actor, FederationError, Reason, Refusal, Remedy
from mosaic_cli.output.times import duration

if TYPE_CHECKING:
    from federation.v1 import admin_pb2 as pb


_NEW_TOKEN: Final = "federation grant token {grant_id}"  # noqa: S105 - a command
_REMOVE: Final = "federation peer remove {peer} --user {user}"
_ADD: Final = "federation peer add --user {user} TOKEN"
ADVICE: Final[Mapping[Action, tuple[str, ...]]] = {
    Action.INIT_GATEWAY: ("gateway init {directory}",),
    Action.START_GATEWAY: ("gateway serve --gateway {directory}",),
    Action.IMPORT_DATA: ("gateway import",),
    Action.LIST_GRANTS: ("federation grant list",),
    Action.SHOW_GRANT: ("federation grant show {grant_id}", "federation audit --grant {grant_id}"),
    Action.EDIT_SCOPE: ("federation grant scope {grant_id}",),
    Action.ADD_PEER: ("federation peer add",),
    Action.LIST_PEERS: ("federation peer list",),
    Action.REMOVE_PEER: (_REMOVE,),
    Action.REPLACE_PEER: (_REMOVE, _ADD),
    Action.ENROLL_AGAIN: (_NEW_TOKEN, _REMOVE, _ADD),
    Action.ROTATE_PEER: ("federation peer rotate {peer} --user {user}",),
    Action.RESET_CIRCUIT: ("federation peer reset {peer} --user {user}",),
    Action.EXPLAIN_PEER: ("federation status --explain {peer} --user {user}",),
    Action.SHOW_STATUS: ("federation status",),
    Action.SHOW_CAPABILITIES: ("federation query capabilities --user {user} --source {source}",),
    Action.CHOOSE_USER: ("--user USER",),
    Action.CHOOSE_RESOURCE: ("--resource RESOURCE",),
    Action.ALLOW_MORE_TIME: ("--timeout SECONDS",),
}
"""The commands of each action, in the order to run them: the arguments of `mosaic`, or only options.

A word in braces is replaced by that parameter of the remedy. An empty parameter is omitted together with the option
before it. `_NEW_TOKEN` is a command of the peer's operator, whichever actor the remedy has.
"""
_STATUS: Final = Remedy(action=Action.SHOW_STATUS)
_LOOK_AT_GRANT: Final = Remedy(action=Action.LIST_GRANTS, actor=Actor.PEER_OPERATOR)
CURES: Final[Mapping[Reason, tuple[str, Remedy | None]]] = {
    Reason.CERTIFICATE_INVALID: (ENROLL_AGAIN, Remedy(action=Action.ENROLL_AGAIN)),
    Reason.GRANT_REVOKED: ("the peer's operator revoked the grant; ask them for a new one", None),
    Reason.GRANT_INVALID: ("ask the peer's operator to look at the grant", _LOOK_AT_GRANT),
    Reason.SCOPE_VIOLATION: ("see what the grant opens", Remedy(action=Action.SHOW_CAPABILITIES)),
    Reason.CIRCUIT_OPEN: ("see", _STATUS),
    Reason.PEER_UNREACHABLE: ("check that the peer's gateway runs; see", _STATUS),
    Reason.PEER_TIMEOUT: ("the peer is slow or unreachable; see", _STATUS),
}
"""The advice for a refusal that carries no remedy."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control and bidirectional characters. A peer's row may hold them to move the cursor or reorder the text."""
_UNCONNECTED: Final = re.compile(r"failed to connect to all addresses; last error: (?:[A-Z_]+: )?(?:ipv[46]:)?")


def clean(text: str) -> str:
    """Return text with every control character replaced, so that text from a peer cannot control the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def explain(error: FederationError) -> str:
    """Return one line with the error, its reason and the command that mends it."""
    text = clean(advised(simplify_grpc_error(str(error)), error.remedy))
    if not isinstance(error, Refusal):
        return text
    if error.retry_after_s is not None and "try again in" not in text:
        return f"{error.reason}: {text}; try again in {duration(error.retry_after_s)}"
    if error.remedy is not None or error.reason not in CURES:
        return f"{error.reason}: {text}"
    return f"{error.reason}: {text}; {advised(*CURES[error.reason])}"


def advised(text: str, remedy: Remedy | None) -> str:
    """Return the text, followed by the command of the remedy if there is one."""
    return text if remedy is None else f"{text}: {command(remedy)}"


def command(remedy: Remedy) -> str:
    """Return the command line of a remedy.

    Several commands, and those of the peer's operator, are quoted in backticks.
    """
    commands, parameters = ADVICE[remedy.action], _parameters(remedy)
    theirs = [one for one in commands if one == _NEW_TOKEN or remedy.actor is Actor.PEER_OPERATOR]
    ours = [_command_line(one, parameters) for one in commands if one not in theirs]
    if len(ours) == 1 and not theirs:
        return ours[0]
    groups = [" and ".join(f"`{text}`" for text in ours)] if ours else []
    if theirs:
        groups.insert(0, " and ".join(f"`{_command_line(one, parameters)}`" for one in theirs) + " there")
    return ", then ".join(groups)


def remedy_in(message: "pb.SourceReport | pb.PeerSignal") -> Remedy | None:
    """Return the remedy of a message, or `None` if it has none that this version knows."""
    return Remedy.parse(message.remedy.action, message.remedy.parameters)


def _parameters(remedy: Remedy) -> dict[str, str]:
    """Return the parameters of a remedy, quoted for a shell."""
    parameters = dict(remedy.parameters)
    if remedy.peer:
        parameters["source"] = f"federated:{remedy.peer}"
    return {name: quote(value) for name, value in parameters.items()}


def _command_line(text: str, parameters: Mapping[str, str]) -> str:
    typed: list[str] = []
    for word in text.split():
        value = parameters.get(word[1:-1], "") if word.startswith("{") else word
        if value:
            typed.append(value)
        elif typed[-1].startswith("--"):
            typed.pop()
    return " ".join(typed if text.startswith("--") else ["mosaic", *typed])


def simplify_grpc_error(text: str) -> str:
    """Return gRPC's message of a failed connection in short form; other text only on one line."""
    shorter = _UNCONNECTED.sub("cannot connect to ", " ".join(text.split()))
    return shorter.replace(": Failed to connect to remote host: ", ": ")
