"""The pipeline of a served call.

    error boundary → tracing → audit → identity → rate limit → authorize → verb → authorize again → lease

The error boundary is the server's interceptor; this module holds the rest. Messages are decoded and encoded within the
audit, so a malformed request has an audit event, and the audited size is that of the bytes sent. An answer that was
recorded may still be refused at its last step, if its grant was revoked meanwhile; then both events are recorded.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError, Message

from federation.clock import MICROSECONDS, SYSTEM_CLOCK, Clock
from federation.errors import Reason, Refusal
from federation.resources.provider import ResourceProvider
from federation.scope.model import SENSITIVE_RESOURCES
from federation.server.audit.trail import AuditTrail, source_of
from federation.server.call_stats import CallCounters
from federation.server.pipeline.authorization import authorize
from federation.server.pipeline.error_boundary import Context, add_trailing, incident
from federation.server.pipeline.identity import CallerIdentity, caller_of
from federation.server.pipeline.rate_limit import GrantLimiter
from federation.server.pipeline.tracing import ServedCall, ServerTracing
from federation.store.audit.model import AuditEvent
from federation.store.grants.model import Grant
from federation.store.grants.registry import GrantRegistry
from federation.telemetry.spans import OutcomeName, outcome_of_code
from federation.telemetry.traceparent import parse_traceparent
from federation.v1 import federation_pb2 as pb
from federation.verbs.handlers import SERVED_VERBS, Reply, Verbs
from federation.verbs.page_tokens import PageTokens
from federation.verbs.validation import invalid
from federation.wire.channel_args import MAX_MESSAGE_BYTES
from federation.wire.metadata import INSTANCE, LEASE_MS, MAX_LEASE_MS, TRACEPARENT, Metadata, first, is_instance
from federation.wire.requests import query_hash, resource_of, serialize
from federation.wire.verbs import SERVICE_NAME, VERB_BY_NAME

ATTEMPTS: Final = 3
"""Maximum number of runs of the verb for one call, if the grant's scope is edited meanwhile."""
MAX_AUDITED: Final = 256
"""The audit stores at most this many characters of a resource name or reason."""

_NO_REPLY: Final = Reply(pb.GetResponse())

Handler = Callable[[Grant, Any], Awaitable[Reply]]
WatchHandler = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]


class LeaseGranter(Protocol):
    """The lease table as the pipeline needs it; `federation.server.revocation.leases.LeaseTable` implements it."""

    def grant_lease(self, grant_id: str, instance: str, lease_ms: int, /) -> int:
        """Record a lease for one cache object before its answer leaves; return the lease to send, which may be 0.

        The method never waits: a revocation happens either before or after it.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Verb:
    name: str
    request: type[Message]
    handler: Handler


@dataclass(slots=True, kw_only=True)
class _CallContext:
    """The context of one call, for its tracing and its audit event."""

    verb: _Verb
    metadata: Metadata
    auth_context: Mapping[str, Iterable[bytes]]
    source: str
    at_us: int
    started: float
    request: Message | None
    """`None` if the bytes are not a message of the verb."""
    resource: str
    """The resource that the request names, cut to `MAX_AUDITED` characters."""
    caller: CallerIdentity | None = None
    """`None` if the certificate is refused."""
    grant: Grant | None = None
    trace_id: str = ""

    @property
    def peer(self) -> str:
        """The name of the grant's peer; empty if the grant is unknown."""
        return self.grant.peer if self.grant else ""


class FederationService:
    """Serves `FederationService` over mutual TLS.

    `page_key` is the secret of the page tokens (at least 32 bytes). `max_lease_ms` bounds the time for which a peer may
    cache an answer. The service checks a grant when a call arrives, after its rows are read, and when its answer
    leaves. `counters` counts every call. `watch` serves the method of that name.
    """

    def __init__(
        self,
        *,
        gateway: str,
        version: str,
        provider: ResourceProvider,
        grants: GrantRegistry,
        audit: AuditTrail,
        page_key: bytes,
        clock: Clock = SYSTEM_CLOCK,
        tracing: ServerTracing,
        leases: LeaseGranter,
        max_lease_ms: int = MAX_LEASE_MS,
        counters: CallCounters | None = None,
        watch: WatchHandler | None = None,
    ) -> None:
        self._grants, self._audit, self._clock = grants, audit, clock
        self._tracing, self._leases, self._max_lease_ms = tracing, leases, max_lease_ms
        self._counters = counters or CallCounters(clock)
        self._watch = watch
        self._limiter = GrantLimiter(clock.monotonic)
        verbs = Verbs(gateway, version, provider, PageTokens(page_key))
        self._verbs = tuple(_Verb(name, VERB_BY_NAME[name].request, getattr(verbs, name)) for name in SERVED_VERBS)

    def rpc_handler(self) -> grpc.GenericRpcHandler:
        """Return the handler that a server registers. gRPC answers UNIMPLEMENTED for methods that are not served."""
        methods: dict[str, Any] = {
            VERB_BY_NAME[verb.name].method: grpc.unary_unary_rpc_method_handler(partial(self._serve, verb))
            for verb in self._verbs
        }
        if self._watch is not None:
            methods[VERB_BY_NAME["watch"].method] = grpc.stream_stream_rpc_method_handler(self._watch)
        return grpc.method_handlers_generic_handler(SERVICE_NAME, methods)

    async def _serve(self, verb: _Verb, raw: bytes, context: Context) -> bytes:
        call = self._arrive(verb, raw, context)
        with self._tracing(call.metadata, verb.name, call.resource, call.caller, call.peer) as trace:
            call.trace_id = trace.trace_id or _trace_id(call.metadata)
            if trace.trailing:
                add_trailing(context, trace.trailing)
            try:
                body, lease_ms = await self._audited(call, trace)
            except Refusal:
                raise
            except Exception as fault:  # as the error boundary does, but while the span is current for the log
                raise incident(fault, verb.name) from fault
        if lease_ms is not None:
            add_trailing(context, ((LEASE_MS, str(lease_ms)),))
        return body

    def _arrive(self, verb: _Verb, raw: bytes, context: Context) -> _CallContext:
        request = _decoded(verb.request, raw)
        call = _CallContext(
            verb=verb,
            metadata=context.invocation_metadata() or (),
            auth_context=context.auth_context(),
            source=source_of(context.peer()),
            at_us=self._clock.now_us(),
            started=self._clock.monotonic(),
            request=request,
            resource="" if request is None else resource_of(request)[:MAX_AUDITED],
        )
        try:
            call.caller = caller_of(call.auth_context, call.at_us)
            call.grant = self._grants.get(call.caller.grant_id)
        except Refusal:
            call.caller = None  # `_answer` refuses the certificate within the span and the audit
        return call

    async def _audited(self, call: _CallContext, trace: ServedCall) -> tuple[bytes, int | None]:
        """Answer a call and record its outcome. A read is recorded before it leaves."""
        reply, body, absent = _NO_REPLY, b"", None
        outcome, reason, recorded = OutcomeName.ERROR, "", ""
        try:
            try:
                reply, body, outcome = *await self._answer(call), OutcomeName.OK
            except Refusal as refusal:
                if refusal.reason is not Reason.ROW_NOT_FOUND:
                    raise
                absent, outcome, reason = refusal, OutcomeName.NOT_FOUND, refusal.reason.value
            await self._audit.record_read(self._event(call, outcome, reason, len(body)))
            lease_ms = self._finish(call, reply)
        except BaseException as fault:
            outcome, reason, detail = _outcome_of(fault)
            recorded = f"{reason}: {detail}" if detail else reason
            self._audit.record_refusal(self._event(call, outcome, recorded, 0))
            raise
        finally:
            grant_id = call.grant.id if call.grant else None
            self._counters.record(call.verb.name, outcome, grant_id=grant_id, reason=recorded[:MAX_AUDITED])
            trace.outcome = outcome
        if absent is not None:
            raise absent
        return body, lease_ms

    async def _answer(self, call: _CallContext) -> tuple[Reply, bytes]:
        caller = call.caller or caller_of(call.auth_context, call.at_us)
        if call.grant is not None:
            self._limiter.check(call.grant.id, call.grant.scope.rate_limit_per_minute)
        call.grant = authorize(call.grant, caller, call.at_us)
        if call.request is None:
            raise invalid("request", f"not a {call.verb.request.DESCRIPTOR.name}")
        for _ in range(ATTEMPTS):
            reply = await call.verb.handler(call.grant, call.request)
            body = reply.message.SerializeToString()
            if len(body) > MAX_MESSAGE_BYTES:
                raise ValueError(f"{len(body)} bytes for {call.verb.name} {call.resource}; a row is too large")
            scope, call.grant = call.grant.scope, authorize(self._grants.get(call.grant.id), caller, call.at_us)
            if call.grant.scope == scope:
                return reply, body
        raise _scope_changed()

    def _finish(self, call: _CallContext, reply: Reply) -> int | None:
        """Grant the lease of an answer that leaves and return it in milliseconds, or raise `Refusal`.

        Runs without awaiting, and nothing awaits after it. So a revocation happens either entirely before it (then the
        answer is refused) or entirely after it (then the revocation sees the lease). Keep it free of `await`.
        """
        assert call.grant is not None  # noqa: S101 - `_answer` authorized the grant
        assert call.caller is not None  # noqa: S101 - and the caller
        now_us = self._clock.now_us()
        latest = authorize(self._grants.get(call.grant.id), call.caller, now_us)
        if latest.scope != call.grant.scope:
            raise _scope_changed()
        self._grants.record_use(latest.id, call.caller.serial)
        return (
            self._lease(call, latest, call.caller.not_after_us, reply.cacheable_resource, now_us)
            if reply.cacheable_resource
            else None
        )

    def _lease(self, call: _CallContext, grant: Grant, end_us: int, resource: str, now_us: int) -> int:
        instance = first(call.metadata, INSTANCE) or ""
        if resource in SENSITIVE_RESOURCES or not is_instance(instance):
            return 0
        if grant.expires_at_us is not None:
            end_us = min(end_us, grant.expires_at_us)
        lease_ms = min(self._max_lease_ms, (end_us - now_us) * 1_000 // MICROSECONDS)
        return self._leases.grant_lease(grant.id, instance, lease_ms) if lease_ms > 0 else 0

    def _event(self, call: _CallContext, outcome: OutcomeName, reason: str, bytes_out: int) -> AuditEvent:
        return AuditEvent(
            at_us=call.at_us,
            grant_id=call.grant.id if call.grant else None,
            peer=call.peer,
            subject=call.caller.subject if call.caller else "",
            verb=call.verb.name,
            resource=call.resource,
            query_hash="" if call.request is None else query_hash(serialize(call.request)),
            outcome=outcome.value,
            reason=reason[:MAX_AUDITED],
            bytes_out=bytes_out,
            latency_ms=(self._clock.monotonic() - call.started) * 1_000,
            trace_id=call.trace_id,
            source=call.source,
        )


def _scope_changed() -> Refusal:
    return Refusal(
        Reason.RATE_LIMITED,
        "the scope of the grant was edited during the call; try again",
        retry_after_s=0.1,
        detail="scope",
    )


def _decoded(kind: type[Message], raw: bytes) -> Message | None:
    try:
        return kind.FromString(raw)
    except DecodeError:
        return None


def _outcome_of(fault: BaseException) -> tuple[OutcomeName, str, str]:
    """Return outcome, reason, and the detail that only the audit may contain."""
    if isinstance(fault, Refusal):
        return outcome_of_code(fault.code), fault.reason.value, fault.detail
    if isinstance(fault, asyncio.CancelledError):
        return OutcomeName.CANCELLED, "", ""
    return OutcomeName.ERROR, Reason.INTERNAL.value, ""


def _trace_id(metadata: Metadata) -> str:
    parent = parse_traceparent(first(metadata, TRACEPARENT))
    return f"{parent.trace_id:032x}" if parent else ""
