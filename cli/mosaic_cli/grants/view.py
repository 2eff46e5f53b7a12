"""Grants for people: what they open in words, what that is at this moment, and who uses them."""

from collections.abc import Iterable, Iterator, Sequence

from federation.v1 import admin_pb2 as pb
from mosaic_cli.grants import shapes as grant_shapes
from mosaic_cli.output import console, shapes
from mosaic_cli.output.times import dated, duration, when

__all__ = ["show", "show_opened", "show_opens", "show_receipts", "table"]

Fact = tuple[str, console.Cell]


def show(grant: pb.GrantInfo) -> None:
    """Print a grant. One that was only tried has no id yet."""
    console.facts(
        (
            ("grant", grant.id or "(not created)"),
            ("status", console.state_text(shapes.enum_name(grant, "status"))),
            ("peer", grant.peer),
            ("subject", grant.subject),
            *_lines("scope", grant_shapes.words(grant)),
            ("created", dated(grant, "created_at")),
            ("expires", dated(grant, "expires_at", "never")),
            *_use(grant),
            *_certificate(grant),
            *_end(grant),
        )
    )


def show_opens(grant: pb.GrantInfo, opens: Sequence[pb.ResourcePreview]) -> None:
    """Print how many rows each resource has for the peer at this moment, and the newest of them."""
    if grant.status not in {pb.GRANT_STATUS_PENDING, pb.GRANT_STATUS_ACTIVE}:
        console.message(f"it opens nothing: it is {shapes.enum_name(grant, 'status')}")
        return
    if opens:
        _opens_table(grant, opens)
    resources, counted = grant_shapes.open_resources(grant), {one.resource for one in opens}
    if resources == ():
        console.message("it opens nothing: every resource that it names is excluded")
    if missing := [name for name in resources or () if name not in counted]:
        console.message(f"not counted: {', '.join(missing)}; the gateway's log may say why")


def show_opened(change: pb.UpdateGrantScopeResponse, then_open: Sequence[str]) -> None:
    """Print how many rows each resource has for the peer at this moment, and would have under another scope."""
    now_open = grant_shapes.open_resources(change.grant) or ()
    now, then = ({one.resource: one for one in opens} for opens in (change.opened, change.opens))
    if not (now_open or then_open):
        return
    console.write("")
    console.table(
        ("resource", "rows now", "rows then", "newest then"),
        (
            (
                name,
                _rows(now.get(name)) if name in now_open else "-",
                _rows(then.get(name)) if name in then_open else "-",
                (", ".join(then[name].newest_ids) if name in then else "") or "-",
            )
            for name in dict.fromkeys((*now_open, *then_open))
        ),
        shrink="newest then",
    )
    console.message("-: closed")


def _rows(one: pb.ResourcePreview | None) -> str:
    return f"{one.rows}{'+' if one.more else ''}" if one else "not counted"


def _opens_table(grant: pb.GrantInfo, opens: Sequence[pb.ResourcePreview]) -> None:
    console.write("")
    console.table(
        ("opens now" if grant.status == pb.GRANT_STATUS_ACTIVE else "would open", "rows", "newest"),
        ((one.resource, _rows(one), ", ".join(one.newest_ids) or "-") for one in opens),
        shrink="newest",
    )
    if any(one.more for one in opens):
        console.message("+: there are more than were counted")


def show_receipts(receipts: Iterable[pb.RevocationReceipt]) -> None:
    """Print from when on what was taken back could be served by no cache any more."""
    for receipt in receipts:
        begun = "narrowed" if receipt.kind == "narrowed" else "revoked"
        effective = dated(receipt, "effective_at", "not yet: a cache of the peer is awaited")
        console.write("")
        console.facts(
            (
                (begun, dated(receipt, "revoked_at")),
                ("effective", effective),
                ("lost" if begun == "narrowed" else "reason", receipt.reason or "-"),
                ("caches", f"{len(receipt.instances)} released" if receipt.instances else "none held anything"),
            )
        )


def table(grants: Iterable[pb.GrantInfo]) -> None:
    """Print one line a grant."""
    console.table(
        ("status", "id", "peer", "subject", "expires", "last used"),
        (
            (
                console.state_text(shapes.enum_name(grant, "status")),
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


def _lines(name: str, words: Sequence[str]) -> Iterator[Fact]:
    for number, line in enumerate(words):
        yield ("" if number else name, line)


def _use(grant: pb.GrantInfo) -> Iterator[Fact]:
    if not grant.id:
        return
    yield "last used", dated(grant, "last_used_at", "never")
    yield "caches", f"{grant.leases} may hold answers, {grant.watches} connected"
    if grant.requests:
        denied = f", {grant.denials} denied" if grant.denials else ""
        yield "calls", f"{grant.requests} since the gateway started{denied}"
    if grant.HasField("last_denied_at"):
        yield "last denied", f"{dated(grant, 'last_denied_at')}: {grant.last_denied_reason or '-'}"


def _certificate(grant: pb.GrantInfo) -> Iterator[Fact]:
    if not grant.HasField("certificate"):
        return
    certificate = grant.certificate
    life = certificate.not_after.seconds - certificate.not_before.seconds
    yield "certificate", f"{certificate.serial}, for {duration(life)}"
    yield "fingerprint", certificate.fingerprint
    yield "valid from", dated(certificate, "not_before")
    yield "ends", dated(certificate, "not_after")
    yield "renewal due", dated(certificate, "renews_at")
    if certificate.after_expiry:
        yield "", "issued on the word of the old key, because the one before had expired"


def _end(grant: pb.GrantInfo) -> Iterator[Fact]:
    if grant.HasField("revoked_at"):
        yield "revoked", dated(grant, "revoked_at")
        yield "reason", grant.revoked_reason or "-"
