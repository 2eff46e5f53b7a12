"""A session: sends the requests of one user to local data and peers together."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from federation.config import SessionConfig
from federation.errors import FederationError, InputError, NotFoundError
from federation.session.availability.availability import PeerAvailability
from federation.session.classification import peer_removed
from federation.session.context import SessionContext
from federation.session.fanout import FanOut
from federation.session.results import Result, SourceReport
from federation.session.signals import PeerSignal
from federation.session.sources import ALL, LOCAL, choose, source_of
from federation.session.stream import AnswerStream
from federation.session.validation import (
    Request,
    build_request,
    plain_user,
    plan_of,
    require_list,
    validate,
)
from federation.session.warmup import WarmReport, warm
from federation.v1 import federation_pb2 as pb

if TYPE_CHECKING:
    from federation.session.paging.cursors import Cursor


class Session:
    """A session of one user in one event loop, created by `Federation.session`. `close` it, or use `async with`.

    `source` is `local`, `federated:<peer>` or `all`. Each row is tagged with its source. For an unreachable peer the
    session gives one signal, and then skips the peer. Invalid input raises `InputError`, an unknown peer
    `NotFoundError`; a failure of a source is reported in the result.
    """

    def __init__(
        self,
        context: SessionContext,
        user: str,
        config: SessionConfig,
        on_signal: Callable[[PeerSignal], object] | None = None,
    ) -> None:
        if iscoroutinefunction(on_signal):
            raise InputError("on_signal", "must be a plain function; it may start a task of its own")
        self.user, self.config = plain_user(user), config
        self._context = context
        self._availability = PeerAvailability(
            context.probes, context.clock, on_signal, announce_restored=config.announce_restored
        )
        self._running: WeakSet[FanOut] = WeakSet()
        self._warming: set[asyncio.Task[WarmReport]] = set()
        self._closed = False

    async def list(
        self,
        resource: str,
        *,
        where: Mapping[str, str] | None = None,
        page_size: int = 0,
        page_token: str = "",
        source: str = ALL,
    ) -> Result:
        """Return rows of a resource, newest first. `where` compares fields for equality; a page size of 0 means 50."""
        token = {"page_token": page_token} if page_token else {}  # in a oneof, even an empty value would count as set
        request = build_request(pb.ListRequest, resource=resource, where=where or {}, page_size=page_size, **token)
        return await self.ask(request, source=source)

    async def get(self, resource: str, row_id: str, *, source: str = ALL) -> Result:
        """Return one row from each source that has the row."""
        return await self.ask(build_request(pb.GetRequest, resource=resource, id=row_id), source=source)

    async def search(
        self,
        query: str,
        *,
        resources: Iterable[str] = (),
        page_size: int = 0,
        page_token: str = "",
        source: str = ALL,
    ) -> Result:
        """Return hits by score. A score is relative to the best hit of its source."""
        names = require_list("resources", resources)
        request = build_request(
            pb.SearchRequest, query=query, resources=names, page_size=page_size, page_token=page_token
        )
        return await self.ask(request, source=source)

    async def capabilities(self, *, source: str = ALL) -> Result:
        """Return the capabilities of each source for this user."""
        return await self.ask(pb.CapabilitiesRequest(), source=source)

    async def ask(self, request: Request, *, source: str = ALL, budget_s: float | None = None) -> Result:
        """Return the answers of all sources, merged. `budget_s` overrides the budget of each peer, in seconds."""
        async with self.stream(request, source=source, budget_s=budget_s) as answers:
            async for _ in answers:
                pass
            return answers.merged()

    def stream(self, request: Request, *, source: str = ALL, budget_s: float | None = None) -> AnswerStream:
        """Send the request, and return a stream of answers. Invalid input raises here or from the stream."""
        if self._closed:
            raise FederationError("the session is closed")
        if budget_s is not None and not budget_s > 0:
            raise InputError("budget_s", "must be a positive number of seconds")
        peers = {source_of(peer.name): peer for peer in self._context.peers(self.user)}
        chosen = choose(source, [peer.record for peer in peers.values()])
        plan = plan_of(request, self.user, chosen.argument)
        validate(request, local=LOCAL in chosen.names)
        token: str = getattr(request, "page_token", "")  # only lists and searches have pages
        cursors: dict[str, Cursor] = dict.fromkeys(chosen.names)
        if token:
            cursors = self._context.tokens.open(plan.context, token)
        fan_out = FanOut(
            self._context,
            self._availability,
            self.user,
            plan,
            cursors,
            peers,
            peer_budget_s=budget_s or self.config.peer_budget_s,
            request_budget_s=self.config.request_budget_s,
        )
        self._running.add(fan_out)
        return AnswerStream(fan_out)

    def signals(self) -> AsyncIterator[PeerSignal]:
        """Return an iterator of all signals of this session, earlier ones first. It ends when the session closes."""
        return self._availability.listen()

    def warm(self, resources: Iterable[str], *, page_size: int = 0) -> "asyncio.Task[WarmReport]":
        """Fetch the first page of these resources from each peer in the background, with bounded concurrency.

        Invalid input raises here. A peer removed meanwhile is `skipped` in the report.
        """
        if self._closed:
            raise FederationError("the session is closed")
        requests = [
            build_request(pb.ListRequest, resource=name, page_size=page_size)
            for name in require_list("resources", resources)
        ]
        for request in requests:
            validate(request, local=False)
        sources = [source_of(peer.name) for peer in self._context.peers(self.user)]
        task = asyncio.create_task(warm(self._first_page, requests, sources, self.config.warm_concurrency))
        self._warming.add(task)
        task.add_done_callback(self._warming.discard)
        return task

    async def _first_page(self, request: pb.ListRequest, source: str) -> SourceReport:
        try:
            async with self.stream(request, source=source) as answers:
                return (await anext(answers)).report
        except NotFoundError:
            return peer_removed(source)

    async def close(self) -> None:
        """Cancel requests in progress, and end the signals. May be called twice."""
        self._closed = True
        running = list(self._running)
        for fan_out in running:
            fan_out.cancel(FederationError("the session is closed"))
        self._availability.close()
        warming = list(self._warming)
        for task in warming:
            task.cancel()
        await asyncio.gather(*(fan_out.wait_local() for fan_out in running), *warming, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
