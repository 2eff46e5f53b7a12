"""`mosaic federation query`: read rows, here or at a peer, as one of this gateway's users."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import GATEWAY_HERE, Gateway, GroupGateway, Json

if TYPE_CHECKING:
    from federation.v1 import admin_pb2 as pb

__all__ = ["app"]

app = typer.Typer(
    help="Read rows, here or at a peer, as one of your users.", no_args_is_help=True, rich_markup_mode=None
)
User = Annotated[str, typer.Option("--user", "-u", metavar="USER", help="The user here who asks.")]
Source = Annotated[str, typer.Option("--source", "-s", metavar="SOURCE", help="local, or federated:PEER.")]
PageSize = Annotated[int, typer.Option("--page-size", min=0, max=1_000, help="Rows; 0 means 50. A grant may cap it.")]
PageToken = Annotated[str, typer.Option("--page-token", metavar="TOKEN", help="As an earlier answer gave it.")]
Resource = Annotated[str, typer.Argument(help="tasks, notes, memory, or another that is open.")]


@app.callback()
def _group(gateway: GroupGateway = GATEWAY_HERE) -> None:
    """Read rows, here or at a peer, as one of your users."""


@app.command("list")
def list_rows(
    resource: Resource,
    user: User,
    source: Source = "local",
    where: Annotated[
        list[str] | None, typer.Option("--where", "-w", metavar="FIELD=VALUE", help="May be given several times.")
    ] = None,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> None:
    """List rows of a resource, newest first.

    \b
    Examples:
      mosaic federation query list tasks --user ada --source federated:work.example
      mosaic federation query list tasks --user ada --where status=open --page-size 10
    """
    from federation.v1 import federation_pb2

    request = federation_pb2.ListRequest(resource=resource, where=_pairs(where or []), page_size=page_size)
    if page_token:
        request.page_token = page_token
    _rows(gateway, user, source, as_json=as_json, list=request)


@app.command("get")
def get(
    resource: Resource,
    row_id: Annotated[str, typer.Argument(metavar="ID", help="The row's id.")],
    user: User,
    source: Source = "local",
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> None:
    """Show one row.

    \b
    Example:
      mosaic federation query get tasks T-17 --user ada --source federated:work.example
    """
    from cli import render, rows, shapes
    from federation.v1 import federation_pb2

    request = federation_pb2.GetRequest(resource=resource, id=row_id)
    reply = _ask(gateway, user, source, get=request)
    if as_json:
        render.out(shapes.dump({"row": shapes.row(reply.rows[0])}))
    else:
        rows.show(reply.rows[0])


@app.command("search")
def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="What to look for.")],
    user: User,
    source: Source = "local",
    resources: Annotated[
        list[str] | None, typer.Option("--resource", "-r", help="Search only here; may be given several times.")
    ] = None,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> None:
    """Search rows for words, best match first.

    \b
    Example:
      mosaic federation query search certificate renewal --user ada --source federated:work.example
    """
    from federation.v1 import federation_pb2

    request = federation_pb2.SearchRequest(
        query=" ".join(words), resources=resources or [], page_size=page_size, page_token=page_token
    )
    _rows(gateway, user, source, as_json=as_json, search=request)


@app.command("capabilities")
def capabilities(
    user: User, source: Source = "local", gateway: Gateway = GATEWAY_HERE, *, as_json: Json = False
) -> None:
    """Show what may be read there.

    \b
    Example:
      mosaic federation query capabilities --user ada --source federated:work.example
    """
    from cli import render, shapes
    from federation.v1 import federation_pb2

    reply = _ask(gateway, user, source, capabilities=federation_pb2.CapabilitiesRequest())
    shape = shapes.capabilities(reply.capabilities)
    if as_json:
        render.out(shapes.dump({"capabilities": shape, "_source": reply.source}))
        return
    render.facts(
        (
            ("gateway", f"{shape['gateway']} ({shape['gateway_version'] or 'version unknown'})"),
            ("resources", ", ".join(shape["resources"]) or "-"),
            ("excluded", ", ".join(shape["excluded_resources"]) or "-"),
            ("rows a query", str(shape["max_rows_per_query"])),
            ("verbs", ", ".join(shape["verbs"])),
        )
    )


def _rows(gateway: Any, user: str, source: str, *, as_json: bool, **verb: Any) -> None:
    from cli import render, rows, shapes

    reply = _ask(gateway, user, source, **verb)
    if as_json:
        shown = [shapes.row(row, search="search" in verb) for row in reply.rows]
        render.out(shapes.dump({"rows": shown, "next_page_token": reply.next_page_token or None}))
    else:
        rows.listing(reply, search="search" in verb)


def _ask(gateway: Any, user: str, source: str, **verb: Any) -> "pb.QueryResponse":
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    whole = pb.QueryResponse()
    with connect(gateway) as admin:
        for part in admin.Query(pb.QueryRequest(user=user, source=source, **verb)):
            whole.MergeFrom(part)
    return whole


def _pairs(given: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        field, equals, value = text.partition("=")
        if not (field and equals):
            raise typer.BadParameter(f"{text!r} is not FIELD=VALUE, such as status=open", param_hint="--where")
        if field in pairs:
            raise typer.BadParameter(f"{field} is given twice; rows must equal all of them", param_hint="--where")
        pairs[field] = value
    return pairs
