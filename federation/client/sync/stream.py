"""The stream of sync gRPC over a run: to the chain, a stream is one call whose outcome is how it ended."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from federation.client.chain.flow import Call, Outcome
from federation.client.chain.methods import Method
from federation.client.chain.outcomes import closed, from_wire
from federation.client.chain.runner import FlowRunner, Step
from federation.client.interceptors.tagging import stripped
from federation.client.sync.call import SyncEnd
from federation.client.sync.drivers import FuturePort, Wire, failed
from federation.wire.metadata import Metadata

__all__ = ["StreamDriver", "SyncStream"]


class StreamDriver(FuturePort):
    """Opens one stream; its end resumes the run. `wire` is gRPC's own stream once the chain asked for it."""

    def __init__(self, base: Wire, method: Method, requests: Any) -> None:
        super().__init__(base)
        self._method, self._requests = method, requests
        self.wire: Any = None

    def send(self, run: FlowRunner, step: Step, call: Call) -> Outcome | None:
        """Start gRPC's own stream."""
        opened = self._wire.open(call)
        if isinstance(opened, Outcome):
            return opened
        line, left = opened
        start = line.channel.stream_stream(
            call.method, self._method.request.SerializeToString, self._method.response.FromString
        )
        try:
            wire = start(self._requests, timeout=left, metadata=call.metadata)
        except ValueError:  # gRPC's word for a closed channel
            self._wire.close(call, line, None)
            return closed()
        self.attach(run, step, wire, lambda outcome: self._wire.close(call, line, outcome))
        return None

    def attach(self, run: FlowRunner, step: Step, wire: Any, release: Callable[[Outcome], object]) -> None:
        """Take gRPC's own stream: the step ends with it, and it with the step."""
        self.wire = wire
        step.on_claim(wire.cancel)

        def ended() -> None:
            good = wire.code() is grpc.StatusCode.OK
            trailing = tuple((key, value) for key, value in wire.trailing_metadata() or ())
            outcome = from_wire(grpc.StatusCode.OK, trailing=trailing) if good else failed(wire)
            release(outcome)
            run.answer(step, outcome)

        if not wire.add_callback(ended):
            ended()


class SyncStream(SyncEnd):
    """A bidirectional stream under the chain: an iterator of responses that is the call as well."""

    def __init__(self, run: FlowRunner, port: StreamDriver, peer: str, remaining_s: Callable[[], float | None]) -> None:
        super().__init__(run, peer, remaining_s)
        self._port = port

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        wire = self._port.wire
        if wire is not None:
            try:
                return next(wire)
            except (StopIteration, grpc.RpcError):
                pass  # the run's outcome says how it ended
        outcome = self._ended()
        self._raise_interrupt()
        if not outcome.ok:
            raise self
        raise StopIteration

    def initial_metadata(self) -> Metadata:
        """Return the peer's initial metadata as soon as it is there."""
        wire = self._port.wire
        if wire is None:
            return super().initial_metadata()
        return stripped(tuple((key, value) for key, value in wire.initial_metadata() or ()))
