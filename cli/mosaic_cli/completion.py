"""Completion in a shell: names from the running gateway, quickly or not at all, and never a word of an error."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mosaic_cli.options import named_gateway

__all__ = ["GrantId", "PeerName", "gateways", "grants", "outcomes", "peers", "resources", "run", "sources", "users"]
__all__ += ["verbs"]

VARIABLE: Final = "_MOSAIC_COMPLETE"
ANSWER_S: Final = 0.3
"""What the gateway may take; whoever presses TAB waits for it."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*\Z")
"""Names that no shell reads as anything else. Others are not offered: they would have to be quoted by hand."""
_ODD: Final = re.compile(r"[^A-Za-z0-9 ._:,@()/+…-]")
_BREAKS: Final = re.compile(r"[:=]+\Z")
"""What bash takes for words of their own in the middle of a word."""
Suggestions = list[tuple[str, str]]
"""Names, each with what tells it from others; bash shows the names alone."""


def peers(ctx: typer.Context, incomplete: str) -> Suggestions:
    """Complete the name of a peer."""
    return _names(ctx, "NAME_KIND_PEER", incomplete)


def grants(ctx: typer.Context, incomplete: str) -> Suggestions:
    """Complete the id of a grant."""
    return _names(ctx, "NAME_KIND_GRANT", incomplete)


def users(ctx: typer.Context, incomplete: str) -> Suggestions:
    """Complete the id of a user."""
    return _names(ctx, "NAME_KIND_USER", incomplete)


def resources(ctx: typer.Context, incomplete: str) -> Suggestions:
    """Complete the name of a resource."""
    return _names(ctx, "NAME_KIND_RESOURCE", incomplete)


def sources(ctx: typer.Context, incomplete: str) -> Suggestions:
    """Complete a source: local, all, or a peer of the user who asks."""
    return _names(ctx, "NAME_KIND_SOURCE", incomplete)


def gateways(ctx: typer.Context, incomplete: str) -> Suggestions:
    """Complete the name of a gateway that grants are for."""
    return _names(ctx, "NAME_KIND_GATEWAY", incomplete)


def verbs(incomplete: str) -> list[str]:
    """Complete what an audit event is about."""
    from federation.server.audit.vocabulary import AUDIT_VERBS

    return [word for word in AUDIT_VERBS if word.startswith(incomplete)]


def outcomes(incomplete: str) -> list[str]:
    """Complete how an audit event ended."""
    from federation.server.audit.vocabulary import OUTCOMES

    return [word for word in OUTCOMES if word.startswith(incomplete)]


GrantId = Annotated[
    str,
    typer.Argument(
        metavar="GRANT", help="The grant's id, or how it begins (`grant list` shows it).", autocompletion=grants
    ),
]
PeerName = Annotated[
    str, typer.Argument(metavar="PEER", help="The peer's name, as `peer list` shows it.", autocompletion=peers)
]


def run(complete: Callable[[], Any]) -> int | None:
    """Answer a shell that asks for completions, by `complete`; return `None` where no shell asks."""
    instruction = os.environ.get(VARIABLE, "")
    if not instruction.startswith("complete_"):
        return None
    cut = ""
    if instruction == "complete_bash":
        with suppress(ValueError, KeyError):
            cut = _join_words()
    said = StringIO()
    code = 0
    try:
        with redirect_stdout(said):
            complete()
    except SystemExit as e:  # how the shells' protocol ends; fish asks by the code alone
        code = e.code if isinstance(e.code, int) else 1
    except Exception:  # noqa: BLE001 - a terminal in which somebody types is no place for it
        return 1
    sys.stdout.write("".join(f"{line.removeprefix(cut)}\n" for line in said.getvalue().splitlines() if line))
    return code


def _names(context: typer.Context, kind: str, prefix: str) -> Suggestions:
    try:
        return _asked(context, kind, prefix)
    except Exception:  # noqa: BLE001 - not running, not readable, too slow: there is nothing to offer
        return []


def _asked(context: typer.Context, kind: str, prefix: str) -> Suggestions:
    directory = named_gateway(context)
    if directory is None:
        return []
    import grpc

    from federation.admin.address import target
    from federation.config import GatewayConfig
    from federation.v1 import admin_pb2 as pb
    from federation.v1.admin_pb2_grpc import AdminServiceStub

    config = GatewayConfig.load(Path(os.path.expandvars(directory)).expanduser())
    if not config.socket_path.exists():
        return []
    user = str(context.params.get("user") or "") if kind != "NAME_KIND_USER" else ""
    request = pb.SuggestNamesRequest(kind=pb.NameKind.Value(kind), prefix=prefix, user=user)
    with grpc.insecure_channel(target(config.socket_path), options=[("grpc.enable_retries", 0)]) as channel:
        reply = AdminServiceStub(channel).SuggestNames(request, timeout=ANSWER_S)
    return [(one.name, _ODD.sub(" ", one.about)) for one in reply.names if _PLAIN.match(one.name)]


def _join_words() -> str:
    """Undo how bash parts `federated:work` and `--source=all`; return what it does not want to hear of the last word.

    Its words come one a line; whoever asks otherwise has not parted anything.
    """
    words, at = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])
    if not 0 <= at < len(words):
        return ""
    joined: list[str] = []
    glued = False
    for word in words[: at + 1]:
        breaks = bool(_BREAKS.match(word))
        if joined and (glued or breaks):
            joined[-1] += word
        else:
            joined.append(word)
        glued = breaks
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(len(joined) - 1)
    last = joined[-1]
    value = last.partition("=")[2] if last.startswith("-") else last
    return value[: max(value.rfind(":"), value.rfind("=")) + 1]
