"""The chain as a `grpc.Channel`, for the generated stubs in threads."""

from collections.abc import Callable
from typing import Any, Self

import grpc

from federation.client.calls import BaseChannel
from federation.client.chain.methods import check_options, method_of
from federation.client.chain.outcomes import closed
from federation.client.chain.runner import FlowRunner
from federation.client.peers.peer import Peer
from federation.client.sync.call import FlowFuture
from federation.client.sync.drivers import BlockingDriver, FutureDriver
from federation.clock import Clock
from federation.wire.verbs import Verb


class SyncChannel(BaseChannel, grpc.Channel):
    """A channel to one peer through the chain: `stub.Verb(...)`, `.with_call(...)`, `.future(...)`.

    A plain `stub.Verb(...)` returns the message alone; `with_call` and `future` also give the call with `_source` and
    `_cached`. Per-call credentials, `wait_for_ready` and `compression` raise `ValueError`. Other channels may share
    the connections, so `close` ends this channel's own futures only; a blocking call that another thread has on the
    wire ends by its deadline.
    """

    def __init__(
        self, peer: Peer, *, clock: Clock, deadline_s: float, on_close: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(peer, clock.monotonic, deadline_s)
        self._on_close = on_close
        self._subscribed: list[tuple[Callable[[grpc.ChannelConnectivity], None], grpc.Channel]] = []

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: Any = False,
    ) -> "grpc.UnaryUnaryMultiCallable[Any, Any]":
        """Return the multicallable of a verb. The chain serializes by itself, in one form for key, wire and store."""
        return _UnaryMultiCallable(self, method_of(method, streams=False))

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """Report the states of the current connection; a replaced or disconnected connection reports no more."""
        connection = self.peer.channel.acquire(None)
        self._subscribed.append((callback, connection.channel))
        connection.channel.subscribe(callback, try_to_connect)
        self.peer.channel.release(None, connection)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Stop reporting to `callback`."""
        for known, channel in [entry for entry in self._subscribed if entry[0] is callback]:
            self._subscribed.remove((known, channel))
            channel.unsubscribe(known)

    def close(self) -> None:
        """Accept no more calls, and end the futures in flight with UNAVAILABLE. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.peer.fail_calls(closed(), owner=self)
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def block(self, method: Verb, request: Any, timeout: float | None, metadata: Any) -> FlowFuture:
        """Make a call in this thread and return it finished. An interrupt cancels it, at the peer as well."""
        call = self._call(method, request, timeout, metadata)
        driver = BlockingDriver(self.peer.channel, self._now)
        runner = FlowRunner(driver, self._flow(call), self)
        self.peer.track(runner)
        try:
            runner.start()
            driver.wait(runner)
        except BaseException:
            runner.force_cancel()
            raise
        return FlowFuture(runner, method, call, self._now)

    def future(self, method: Verb, request: Any, timeout: float | None, metadata: Any) -> FlowFuture:
        """Start a call and return at once."""
        call = self._call(method, request, timeout, metadata)
        runner = FlowRunner(FutureDriver(self.peer.channel, self._now), self._flow(call), self)
        runner.start()
        self.peer.track(runner)
        return FlowFuture(runner, method, call, self._now)


class _UnaryMultiCallable(grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg] # generic in its stubs alone
    def __init__(self, channel: SyncChannel, method: Verb) -> None:
        self._channel, self._method = channel, method

    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Any = None, *refused: Any, **options: Any
    ) -> Any:
        check_options(options, refused)
        return self._channel.block(self._method, request, timeout, metadata).result()

    def with_call(
        self, request: Any, timeout: float | None = None, metadata: Any = None, *refused: Any, **options: Any
    ) -> tuple[Any, FlowFuture]:
        check_options(options, refused)
        call = self._channel.block(self._method, request, timeout, metadata)
        return call.result(), call

    def future(  # type: ignore[override] # the stubs want a class of their own
        self, request: Any, timeout: float | None = None, metadata: Any = None, *refused: Any, **options: Any
    ) -> FlowFuture:
        check_options(options, refused)
        return self._channel.future(self._method, request, timeout, metadata)
