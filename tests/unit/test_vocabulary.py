"""One idea has one word: identifiers that were replaced by a standard term do not come back."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("federation", "cli", "tests")
RETIRED: Final = {
    # cache and interceptors
    "Cause": "InvalidationReason",
    "Fate": "RevocationSink",
    "KEPT": "CACHEABLE_VERBS",
    "Shelf": "CacheBucket",
    "Ticket": "FetchToken",
    "Verdict": "DeliveryDecision, Classification or Health",
    "_credit": "_adjust_bytes",
    "_fenced": "bucket_for_insert",
    "_furthest_above_its_share": "_largest_partition",
    "_heed": "_invalidate_on_refusal",
    "_judge": "_check_epoch or classify",
    "_shelf": "_bucket",
    "_shelves": "_buckets",
    "_tally": "_recount",
    "crowded": "needs_compaction",
    "cut": "fail_in_flight, end or reset",
    "fenced": "bucket_for_insert",
    "heed": "invalidate_on_refusal",
    "relieve": "evict_to_limit",
    "remains": "evicted",
    "shelf": "bucket",
    "shelves": "buckets",
    "tally": "recount",
    "ticket": "fetch_token or token",
    "tidy": "compact",
    "verdict": "decision, classification or health",
    # circuit, flows and connections
    "Evidence": "CallResult",
    "Home": "ClientRuntime or LoopKey",
    "Judged": "a flow that returns an outcome and a DeliveryDecision",
    "PASSED": "STREAMING_VERBS",
    "PeerParts": "PeerFactory",
    "PeerStanding": "PeerStatus",
    "Port": "Driver",
    "StoredPeers": "PeerRepository",
    "StreamPort": "Driver",
    "UNPROVEN": "CONNECTION_FAILURE_CODES",
    "Whose": "PeerIdentity",
    "_FORSAKEN": "_PARENT_OBJECTS",
    "_HOMES": "_RUNTIMES",
    "_SILENT": "_IGNORED_CODES",
    "_StreamPort": "a driver",
    "_fly": "_start_shared_call",
    "_turn": "_transition, a lock or a state",
    "_unread": "_unregister_metrics",
    "at_home": "in_loop or call_soon",
    "circuit_turned": "circuit_transition",
    "equip": "build_peer",
    "evidence": "result",
    "forsake": "abandon_after_fork",
    "judge": "classify or assess_health",
    "judged": "checked",
    "put_off": "postpone",
    "settle": "mark_revoked, mark_redeemed or finish",
    "settled": "revoked, redeemed or finished",
    "soon": "call_soon, result_if_done or a name of the result",
    "whose": "identity",
    # watch
    "EventWord": "EventType",
    "Freshness": "ChangeNotifier",
    "WatchHub": "SubscriptionRegistry",
    "_LastWord": "last_message_at",
    "_attend": "_run",
    "_bell": "_wakeup",
    "_freshness": "_change_notifier",
    "_let_in": "_admit",
    "_owing": "_pending_acks",
    "_parting": "_closing",
    "_speak": "_send_events",
    "_stand": "_hold",
    "_unheard": "_unacked",
    "beat_s": "heartbeat_interval_s",
    "calm": "reset",
    "dismiss": "stop",
    "farewell_s": "close_timeout_s",
    "freshness": "notifier",
    "nudge": "wake",
    "park": "suspend",
    "unoffered": "unsupported_pause_s",
    "unpark": "resume",
    # revocation, pipeline and audit
    "EARLIER": "PREVIOUS_PROCESS",
    "How": "ReleaseReason",
    "IncidentGuard": "ErrorBoundary",
    "Keep": "StoreReceipt",
    "Limited": "RateLimited",
    "Narrowing": "ScopeReduction",
    "Taking": "RevocationHandle",
    "UNNOTED": "LeaseGranter",
    "Upkeep": "InvalidationCoordinator",
    "VARIOUS": "MIXED",
    "Withdrawal": "PendingRevocation",
    "_Arrival": "_CallContext",
    "_apart": "_in_thread",
    "_caught": "error",
    "_dismiss": "_finish",
    "_forget": "_remove_written",
    "_hurry": "_flush_now",
    "_unkept": "_unsaved_receipts",
    "chore": "task or retention",
    "leasable": "cacheable_resource",
    "narrowing": "reduction",
    "noted_s": "lease_hold_s",
    "taking": "handle",
    "tend": "run_renewal",
    "upkeep": "coordinator",
    "withdraw": "revocation_steps",
    "withdrawal": "pending",
    "withdrawing": "revoking",
    # sessions
    "Absence": "Outage",
    "AskedNow": "LiveProbe",
    "Asking": "QueryCommand",
    "Board": "PeerAvailability or StatusSnapshot",
    "Course": "QueryPlan",
    "DisorderError": "OrderViolationError",
    "Occasion": "RequestContext",
    "Outlook": "PeerAvailability",
    "PeerAsk": "PeerRequest",
    "Reach": "SessionContext",
    "_absence": "outage",
    "_board": "_signals",
    "_course": "_plan",
    "_occasion": "_context",
    "_outlook": "_availability",
    "_resting": "_deferred",
    "absence": "outage",
    "course": "plan",
    "occasion": "context",
    "outlook": "availability",
    # stores, trust, gateway and admin
    "Followed": "TailPage",
    "GatewayParts": "AdminContext",
    "GrantBook": "GrantRegistry",
    "OutcomeWord": "OutcomeName",
    "Reissuer": "RenewalIssuer",
    "SLIPS": "MAX_EDITS",
    "Within": "InTransaction",
    "_Look": "_HistoryScan",
    "_bound_rest": "_bound_partial_line",
    "_marks": "_fingerprint",
    "_rest_is_skipped": "_skipping_line",
    "_spelled": "base64url",
    "_whole": "_integer or _full_budget",
    "book": "registry",
    "enroll_anew": "re_enroll_hint",
    "found_gateway": "init_gateway",
    "founding": "bootstrap",
    "greeted": "handshake_done",
    "invite": "create_token",
    "invited": "issued",
    "lend": "temp_cert_chain",
    "reissuer": "renewal_issuer",
    "shake": "do_handshake",
    "storable": "is_storable",
    "storing": "translate_db_errors",
    "strange": "unrecognized or foreign",
    # command line
    "GATEWAY_HERE": "UNSET_GATEWAY",
    "GatewayLine": "GatewayClient",
    "Line": "TextLine or Connection",
    "Sheet": "LiveTable",
    "Stage": "DemoEnvironment",
    "going_on": "interruptible",
    "learnt": "print_signals",
    "plainly": "simplify_grpc_error",
    "sheet": "table",
    "the_peer": "peer_at",
    "whole_id": "resolve_grant_id",
}
"""Retired identifiers, each with the standard term. Ordinary words that are right elsewhere are not in the list."""


def identifiers(node: ast.AST) -> Iterator[str]:
    """Yield the identifiers that a node of a syntax tree defines or uses."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            yield name
        case ast.keyword(arg=str(name)):
            yield name
        case ast.alias(name=path, asname=name):
            yield from (*path.split("."), *([name] if name else ()))
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.ExceptHandler(name=str(name)):
            yield name
        case ast.ImportFrom(module=str(path)):
            yield from path.split(".")
        case ast.MatchClass(kwd_attrs=names) | ast.Global(names=names) | ast.Nonlocal(names=names):
            yield from names


@cache
def uses() -> dict[str, list[str]]:
    """Return the places of each retired identifier in source and tests."""
    found: dict[str, list[str]] = {}
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        if path.is_relative_to(ROOT / "federation" / "v1"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in set(identifiers(node)) & RETIRED.keys():
                found.setdefault(name, []).append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}")
    return found


@pytest.mark.parametrize("name", RETIRED)
def test_a_retired_identifier_is_not_used(name: str) -> None:
    """No file of source or tests uses the identifier; the message names the standard term."""
    places = uses().get(name, [])

    assert not places, f"{name} is called {RETIRED[name]} now: {', '.join(places[:20])}"


def test_every_kind_of_identifier_is_found() -> None:
    """The check sees names, attributes, arguments, keywords, functions, classes, imports and patterns."""
    source = """
import a as b
from c.d import e
class F:
    async def g(self, h, *i, **j): self.k = l(m=n)
try: pass
except OSError as o: global p
match q:
    case R(s=t): pass
    case [*u]: pass
"""
    found = {name for node in ast.walk(ast.parse(source)) for name in identifiers(node)}

    assert set("abcdeghijklmnopqstu") | {"F", "R"} <= found
