"""Shell completion: names from the running gateway within a time limit, and no error messages."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mosaic_cli.options import complete_from, named_gateway

VARIABLE: Final = "_MOSAIC_COMPLETE"
ANSWER_S: Final = 0.3
"""Time limit of the gateway's answer. The operator waits for it after pressing TAB."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*\Z")
"""Names without characters that are special to a shell. Other names are not offered, since they need quoting."""
_ODD: Final = re.compile(r"[^A-Za-z0-9 ._:,@()/+…-]")
_BREAKS: Final = re.compile(r"[:=]+\Z")
"""Characters at which bash splits a word (COMP_WORDBREAKS)."""
Suggestions = list[tuple[str, str]]
"""Names and their descriptions. bash shows the names only."""


def _names(kind: str) -> Callable[[typer.Context, str], Suggestions]:
    """Return the shell completion function of names of a kind."""

    def complete(ctx: typer.Context, incomplete: str) -> Suggestions:
        try:
            return _request_names(ctx, f"NAME_KIND_{kind}", incomplete)
        except Exception:  # noqa: BLE001 - not running, not readable or too slow: no completions
            return []

    return complete


peers = _names("PEER")
grants = _names("GRANT")
users = _names("USER")
resources = _names("RESOURCE")
sources = _names("SOURCE")
"""`local`, `all`, and the peers of the user in `--user`."""
gateways = _names("GATEWAY")
"""Gateways that have a grant."""


def verbs(incomplete: str) -> list[str]:
    """Complete the verb of an audit event."""
    from federation.server.audit.vocabulary import AUDIT_VERBS

    return complete_from(AUDIT_VERBS)(incomplete)


def outcomes(incomplete: str) -> list[str]:
    """Complete the outcome of an audit event."""
    from federation.server.audit.vocabulary import OUTCOMES

    return complete_from(OUTCOMES)(incomplete)


user_option = partial(typer.Option, metavar="USER", autocompletion=users)
peer_option = partial(typer.Option, metavar="PEER", autocompletion=peers)
gateway_option = partial(typer.Option, metavar="NAME", autocompletion=gateways)
GrantId = Annotated[
    str,
    typer.Argument(
        metavar="GRANT", help="The grant's id or a unique prefix of it (see `grant list`).", autocompletion=grants
    ),
]
PeerName = Annotated[
    str, typer.Argument(metavar="PEER", help="The peer's name (see `peer list`).", autocompletion=peers)
]


def run(complete: Callable[[], Any]) -> int | None:
    """Print completions by `complete` and return the exit code, or return `None` if no shell requests completions."""
    instruction = os.environ.get(VARIABLE, "")
    if not instruction.startswith("complete_"):
        return None
    joined_prefix = ""
    if instruction == "complete_bash":
        with suppress(ValueError, KeyError):
            joined_prefix = _join_words()
    output = StringIO()
    code = 0
    try:
        with redirect_stdout(output):
            complete()
    except SystemExit as e:  # ends the shells' protocol; fish evaluates only the exit code
        code = e.code if isinstance(e.code, int) else 1
    except Exception:  # noqa: BLE001 - a traceback would clutter the prompt
        return 1
    sys.stdout.write(
        "".join(f"{line.removeprefix(joined_prefix)}\n" for line in output.getvalue().splitlines() if line)
    )
    return code


def _request_names(context: typer.Context, kind: str, prefix: str) -> Suggestions:
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
    """Rejoin words that bash splits at `:` and `=`, such as `federated:work` and `--source=all`.

    Returns the prefix of the last word that bash already has and that must be stripped from the completions. Expects
    one word a line in COMP_WORDS, as bash's script passes them; other shells do not split.
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
