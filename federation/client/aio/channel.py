"""The chain as a `grpc.aio.Channel`, for the generated stubs."""

import asyncio
from typing import Any, Self

import grpc

from federation.client.aio.call import FlowCall, end_of
from federation.client.aio.driver import AioDriver
from federation.client.calls import BaseChannel
from federation.client.chain.methods import check_options, method_of
from federation.client.chain.outcomes import closed
from federation.client.chain.runner import FlowRunner
from federation.client.peers.peer import Peer
from federation.client.transport.connections import Connection
from federation.clock import Clock
from federation.wire.verbs import Verb


class AioChannel(BaseChannel, grpc.aio.Channel):
    """A channel to one peer through the chain: List, Get, Search and Capabilities.

    It is bound to no loop; each loop has its own connection. Per-call credentials, `wait_for_ready` and `compression`
    raise `ValueError`: the channel has one identity, and the circuit bounds the waiting. Other channels may share the
    connections, so `close` ends this channel's own calls only.
    """

    def __init__(self, peer: Peer, *, clock: Clock, deadline_s: float) -> None:
        super().__init__(peer, clock.monotonic, deadline_s)
        self._clock = clock
        self._drivers: dict[asyncio.AbstractEventLoop, AioDriver] = {}

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: Any = False,
    ) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        """Return the multicallable of a verb. The chain serializes by itself, in one form for key, wire and store."""
        return _UnaryMultiCallable(self, method_of(method, streams=False))

    def start(
        self,
        method: Verb,
        request: Any,
        timeout: float | None,
        metadata: Any,
        *,
        detach: bool = False,
        hit_only: bool = False,
    ) -> FlowCall:
        """Start a unary call: step its flow at once, as far as it gets without the wire.

        `detach` and `hit_only` are those of `Call`; a `hit_only` call has ended when this returns.
        """
        driver = self._driver()
        call = self._call(method, request, timeout, metadata)
        if detach or hit_only:
            call = call._replace(detach=detach, hit_only=hit_only)
        runner = FlowRunner(driver, self._flow(call), self)
        runner.start()
        self.peer.track(runner)
        return FlowCall(runner, method, call, self._now)

    async def close(self, grace: float | None = None) -> None:
        """Accept no more calls, wait up to `grace` seconds for those in flight, and end the rest with UNAVAILABLE."""
        self._closed = True
        own = [runner for runner in self.peer.runners.copy() if runner.owner is self]
        if grace and own:
            await asyncio.wait([end_of(runner) for runner in own], timeout=grace)
        self.peer.fail_calls(closed(), owner=self)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of this loop's connection; IDLE if none is open."""
        loop = asyncio.get_running_loop()
        connection = self.peer.channel.current(loop)
        if connection is None and try_to_connect:
            connection = self._dialled(loop)
        if connection is None:
            return grpc.ChannelConnectivity.IDLE
        state: grpc.ChannelConnectivity = connection.channel.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the current connection leaves a state."""
        connection = self._dialled(asyncio.get_running_loop())
        await connection.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the connection is ready."""
        await self._dialled(asyncio.get_running_loop()).channel.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _driver(self) -> AioDriver:
        loop = asyncio.get_running_loop()
        driver = self._drivers.get(loop)
        if driver is None:
            self._drivers = {each: driver for each, driver in self._drivers.items() if not each.is_closed()}
            driver = self._drivers[loop] = AioDriver(loop, self.peer, self._clock)
        return driver

    def _dialled(self, loop: asyncio.AbstractEventLoop) -> Connection:
        connection = self.peer.channel.acquire(loop)
        self.peer.channel.release(loop, connection)
        return connection


class _UnaryMultiCallable(grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    def __init__(self, channel: AioChannel, method: Verb) -> None:
        self._channel, self._method = channel, method

    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = None, **options: Any) -> FlowCall:
        if options:
            check_options(options)
        return self._channel.start(self._method, request, timeout, metadata)
