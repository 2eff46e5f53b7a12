"""Tables of grants: their scopes, the rows that they open now, and their use."""

from collections.abc import Iterable, Iterator, Sequence

from federation.v1 import admin_pb2 as pb
from mosaic_cli.grants import shapes as grant_shapes
from mosaic_cli.output import console, models
from mosaic_cli.output.times import dated, when


def show(grant: pb.GrantInfo) -> None:
    """Print a grant. A grant of `--dry-run` has no id."""
    console.facts(
        (
            ("grant", grant.id or "(not created)"),
            ("status", console.state_text(models.enum_name(grant, "status"))),
            ("peer", grant.peer),
            ("subject", grant.subject),
            *_lines("scope", grant_shapes.sentences(grant)),
            ("created", dated(grant, "created_at")),
            ("expires", dated(grant, "expires_at", "never")),
            *_use(grant),
            *_certificate(grant),
            *_end(grant),
        )
    )


def show_opens(grant: pb.GrantInfo, opens: Sequence[pb.ResourcePreview]) -> None:
    """Print how many rows each resource opens for the peer now, and the newest of them."""
    if grant.status not in {pb.GRANT_STATUS_PENDING, pb.GRANT_STATUS_ACTIVE}:
        console.message(f"the grant opens nothing: it is {models.enum_name(grant, 'status')}")
        return
    if opens:
        console.write("")
        console.table(
            ("opens now" if grant.status == pb.GRANT_STATUS_ACTIVE else "would open", "rows", "newest"),
            ((one.resource, _rows(one), ", ".join(one.newest_ids) or "-") for one in opens),
            shrink="newest",
        )
        if any(one.more for one in opens):
            console.message("+: more rows than counted")
    resources, counted = grant_shapes.open_resources(grant), {one.resource for one in opens}
    if resources == ():
        console.message("the grant opens nothing: its scope excludes every resource that it names")
    if missing := [name for name in resources or () if name not in counted]:
        console.message(f"not counted: {', '.join(missing)}; see the gateway's log")


def show_opened(change: pb.UpdateGrantScopeResponse, open_then: Sequence[str]) -> None:
    """Print how many rows each resource opens for the peer now, and would open with a new scope."""
    open_now = grant_shapes.open_resources(change.grant) or ()
    now, then = ({one.resource: one for one in opens} for opens in (change.opened, change.opens))
    if not (open_now or open_then):
        return
    console.write("")
    console.table(
        ("resource", "rows now", "rows then", "newest then"),
        (
            (
                name,
                _rows(now.get(name)) if name in open_now else "-",
                _rows(then.get(name)) if name in open_then else "-",
                (", ".join(then[name].newest_ids) if name in then else "") or "-",
            )
            for name in dict.fromkeys((*open_now, *open_then))
        ),
        shrink="newest then",
    )
    console.message("-: not in the scope")


def _rows(one: pb.ResourcePreview | None) -> str:
    return f"{one.rows}{'+' if one.more else ''}" if one else "not counted"


def show_receipts(receipts: Iterable[pb.RevocationReceipt]) -> None:
    """Print the receipts of a grant's revocations and scope reductions."""
    for receipt in receipts:
        kind = "narrowed" if receipt.kind == "narrowed" else "revoked"
        effective = dated(receipt, "effective_at", "not yet: waiting for a cache of the peer")
        console.write("")
        console.facts(
            (
                (kind, dated(receipt, "revoked_at")),
                ("effective", effective),
                ("lost" if kind == "narrowed" else "reason", receipt.reason or "-"),
                ("caches", f"{len(receipt.instances)} released" if receipt.instances else "no cache held answers"),
            )
        )


def table(grants: Iterable[pb.GrantInfo]) -> None:
    """Print a table with one line for each grant."""
    console.table(
        ("status", "id", "peer", "subject", "expires", "last used"),
        (
            (
                console.state_text(models.enum_name(grant, "status")),
                grant.id,
                grant.peer,
                grant.subject,
                when(grant, "expires_at", "never"),
                when(grant, "last_used_at", "never"),
            )
            for grant in grants
        ),
        fold=("id",),
    )


def _lines(name: str, lines: Sequence[str]) -> Iterator[console.Fact]:
    for number, line in enumerate(lines):
        yield ("" if number else name, line)


def _use(grant: pb.GrantInfo) -> Iterator[console.Fact]:
    if not grant.id:
        return
    yield "last used", dated(grant, "last_used_at", "never")
    yield "caches", f"{grant.leases} may hold answers, {grant.watches} connected"
    if grant.requests:
        denied = f", {grant.denials} denied" if grant.denials else ""
        yield "calls", f"{grant.requests} since the gateway started{denied}"
    if grant.HasField("last_denied_at"):
        yield "last denied", f"{dated(grant, 'last_denied_at')}: {grant.last_denied_reason or '-'}"


def _certificate(grant: pb.GrantInfo) -> Iterator[console.Fact]:
    if not grant.HasField("certificate"):
        return
    certificate = grant.certificate
    yield from console.certificate_facts(certificate)
    yield "renewal due", dated(certificate, "renews_at")
    if certificate.after_expiry:
        yield "", "renewed after expiry, by proof of the old key"


def _end(grant: pb.GrantInfo) -> Iterator[console.Fact]:
    if grant.HasField("revoked_at"):
        yield "revoked", dated(grant, "revoked_at")
        yield "reason", grant.revoked_reason or "-"
