"""The JSON objects that commands print with `--json`.

`python -m mosaic_cli.output.outputs DIRECTORY` writes their JSON Schemas to a directory.
"""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final

from mosaic_cli.output import models
from mosaic_cli.output.json_schema import Keys, SchemaBuilder, keys_of
from mosaic_cli.output.models import Instant, Keywords, PeerName, Receipt

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SHARED: Final = "definitions.json"
WIDE: Final = 80
INNERMOST: Final = re.compile(r"[\[{][^\[\]{}]*[\]}]")
"""An array or object without nested ones. A string with brackets may match, but contains no line breaks to join."""
LINKS: Final = ("dns", "tcp", "tls", "certificate", "grant", "verb")
_IN_ORDER: Final = {"prefixItems": [{"properties": {"name": {"const": link}}} for link in LINKS]}
_GRANT: Final[Keys] = {"grant": models.Grant}
_PEER: Final[Keys] = {"peer": models.EnrolledPeer}
_NEXT: Final[Keys] = {"next_page_token": str | None}
_SOURCES: Final[Keys] = {
    "sources": list[models.SourceReport],
    "signals": Annotated[list[models.Signal], "Starts and ends of peers' outages, reported once in a session."],
    "partial": Annotated[bool, "A source did not answer; see `sources`."],
}
_STATUS: Final[Keys] = {
    "gateway": models.Gateway,
    "peers": list[models.StatusPeer],
    "grants": list[models.ServedGrant],
    "serving": Annotated[models.Serving | None, "null with --peer."],
    "warnings": list[str],
}
OUTPUTS: Final[dict[str, Any]] = {
    "federation audit": {
        "events": list[models.AuditEvent],
        **_NEXT,
        "warnings": Annotated[list[str], "The history files that could not be read."],
    },
    "federation audit --follow": keys_of(models.AuditEvent),
    "federation grant confirm": _GRANT,
    "federation grant create": {
        **_GRANT,
        "warnings": list[str],
        "opens": list[models.ResourcePreview],
        "created": Annotated[bool, "false: nothing was stored (--dry-run)."],
    },
    "federation grant list": {"grants": list[models.Grant], **_NEXT},
    "federation grant revoke": {"receipt": Receipt},
    "federation grant scope": {
        **_GRANT,
        "warnings": list[str],
        "gains": list[str],
        "losses": list[str],
        "opened": Annotated[list[models.ResourcePreview], "With --dry-run: what the current scope opens."],
        "opens": Annotated[list[models.ResourcePreview], "With --dry-run: what the new scope would open."],
        "applied": bool,
        "receipt": Annotated[Receipt | None, "null: the peer loses nothing."],
    },
    "federation grant show": {**_GRANT, "opens": list[models.ResourcePreview], "receipts": list[Receipt]},
    "federation grant token": {"token": Annotated[str, Keywords(pattern="^mosaic1_")], "expires_at": Instant},
    "federation peer add": {**_PEER, "awaiting_confirmation": bool},
    "federation peer list": {"peers": list[models.EnrolledPeer]},
    "federation peer remove": {
        "removed": PeerName,
        **_PEER,
        "revoke_there": Annotated[str, "The command that the peer's operator runs to revoke the grant."],
    },
    "federation peer reset": _PEER,
    "federation peer rotate": _PEER,
    "federation peer show": {
        "peer": models.ShownPeer,
        "live": Annotated[models.LiveAnswer | None, "null without --live."],
    },
    "federation query capabilities": {
        "capabilities": Annotated[models.Capabilities | None, "Those of the named source; null with `all`."],
        "_source": str,
        "by_source": list[models.SourceCapabilities],
        **_SOURCES,
    },
    "federation query get": {
        "row": models.Row | None,
        "rows": Annotated[list[models.Row], "One for each source that has a row with this id."],
        **_SOURCES,
    },
    "federation query list": {
        "rows": Annotated[list[models.Row], "The rows of all sources, newest first."],
        **_SOURCES,
        **_NEXT,
    },
    "federation query search": {
        "rows": Annotated[list[models.Hit], "The rows of all sources, best match first."],
        **_SOURCES,
        **_NEXT,
    },
    "federation status": _STATUS,
    "federation status --explain PEER": {
        "peer": PeerName,
        "user": Annotated[str, "The local user who is enrolled there."],
        "endpoint": Annotated[str, "host:port of the peer's federation service."],
        "steps": Annotated[
            list[models.Step],
            "All links in the order in which a call uses them.",
            Keywords(minItems=len(LINKS), maxItems=len(LINKS), allOf=[_IN_ORDER]),
        ],
        "broken": Annotated[models.BrokenLink | None, "null: no link is broken."],
        "gateway": models.GatewayContact,
        "circuit": models.Circuit | None,
        "watch": models.Watch | None,
        "last_failure": models.Failure | None,
        "notes": Annotated[list[str], "Further information for the operator."],
    },
    "federation status --watch": (_STATUS, {"unreachable": models.Outage}),
    "gateway import": {"imported": models.ImportCounts},
    "gateway init": {"gateway": models.NewGateway},
    "user remove": {"removal": models.UserRemoval, "receipts": list[Receipt]},
}
"""The keys of each command's `--json` output. `--watch` prints one of two objects."""
MCP_STATUS: Final[Keys] = {
    "signals": list[models.Signal],
    "partial": bool,
    "gateway": str,
    "user": str,
    "sources": list[models.OpenedSource],
}


def write(directory: Path) -> None:
    """Write the schema of each output, and the shared definitions."""
    builder = SchemaBuilder(f"{SHARED}#/$defs/")
    for command, kinds in OUTPUTS.items():
        words = command.replace("--", "").removesuffix(" PEER").removeprefix("federation ").split()
        one = isinstance(kinds, dict)
        schema = builder.object(kinds) if one else {"anyOf": [builder.object(keys) for keys in kinds]}
        if words[-1] in {"follow", "watch"}:
            schema = {"description": "Each line of the output is one such object.", **schema}
        _write(directory / f"{'-'.join(words)}.json", {"title": f"mosaic {command} --json", **schema})
    shared = dict(sorted(builder.definitions.items()))
    _write(directory / SHARED, {"description": "Definitions that several outputs share.", "$defs": shared})


def _write(path: Path, schema: dict[str, Any]) -> None:
    head = {"$schema": DIALECT, "$id": path.name}
    text = json.dumps({**head, **schema}, indent=2)
    path.write_text(f"{INNERMOST.sub(_on_one_line, text)}\n", encoding="utf-8")


def _on_one_line(found: re.Match[str]) -> str:
    line = " ".join(found[0].split())
    return line if len(line) <= WIDE else found[0]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
