"""The scripted peer's side of `Watch`, and federations with short watch intervals."""

import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from federation.client.peers.watch_handle import WatchState
from federation.client.runtime import ClientRuntime
from federation.client.watch.policy import WatchSettings
from federation.clock import SYSTEM_CLOCK, Clock
from federation.config import ClientConfig
from federation.errors import Refusal
from federation.federation import Federation
from federation.store.peers import PeerRecord
from federation.v1 import federation_pb2 as pb
from federation.wire.status import refusal_status
from tests.support.federations import ListedPeers, config_of
from tests.support.scripted import ScriptedPeer, eventually

QUICK = WatchSettings(
    heartbeat_interval_s=20.0,
    arm_timeout_s=2.0,
    max_stream_age_s=3_600.0,
    first_pause_s=0.02,
    max_pause_s=0.1,
    unsupported_pause_s=3_600.0,
    circuit_poll_s=0.05,
    close_timeout_s=1.0,
)
"""Everything in a moment, but no stream of a peer that sends no heartbeat ends."""
IMPATIENT = replace(QUICK, heartbeat_interval_s=0.2)
"""A stream ends after 0.6 s without a heartbeat."""


class WatchStream:
    """The peer's side of one watch stream."""

    def __init__(self, on_request: Callable[[pb.WatchRequest], None]) -> None:
        self.received: list[pb.WatchRequest] = []
        self.ended = threading.Event()
        self._heard = on_request
        self._outbox: queue.SimpleQueue[pb.WatchResponse | Refusal | None] = queue.SimpleQueue()
        self._last_id = 0
        self._changed = threading.Condition()

    @property
    def instance_id(self) -> str:
        """The instance id of the subscribed cache."""
        return self.received[0].subscribe.instance_id

    @property
    def acks(self) -> list[pb.WatchAck]:
        """The received acknowledgements."""
        return [request.ack for request in self.received if request.HasField("ack")]

    @property
    def heartbeats(self) -> int:
        """The number of received heartbeats."""
        return sum(request.HasField("heartbeat") for request in self.received)

    def send(self, event_id: int | None = None, **kind: Any) -> int:
        """Send one event; return its id."""
        self._last_id += 1
        event_id = self._last_id if event_id is None else event_id
        self._outbox.put(pb.WatchResponse(event_id=event_id, **kind))
        return event_id

    def arm(self) -> int:
        """Confirm the subscription."""
        return self.send(armed=pb.WatchArmed())

    def revoke(self, reason: str = "project over") -> int:
        """Send a revocation."""
        return self.send(grant_revoked=pb.WatchGrantRevoked(reason=reason))

    def change(self) -> int:
        """Send a change of the grant."""
        return self.send(grant_changed=pb.WatchGrantChanged())

    def change_rows(self, resource: str) -> int:
        """Send a change of rows."""
        return self.send(resource_changed=pb.WatchResourceChanged(resource=resource))

    def beat(self) -> int:
        """Send a heartbeat."""
        return self.send(heartbeat=pb.WatchHeartbeat())

    def end(self, refusal: Refusal | None = None) -> None:
        """End the stream with OK or a refusal."""
        self._outbox.put(refusal)

    def wait(self, condition: Callable[["WatchStream"], bool], timeout: float = 5.0) -> None:
        """Block until the condition holds; fail the test at the timeout."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), timeout), f"timed out; {self.received}"

    def receive(self, requests: Iterator[pb.WatchRequest]) -> None:
        """Record requests until the client closes its side or the call is cancelled."""
        try:
            for request in requests:
                self._heard(request)
                with self._changed:
                    self.received.append(request)
                    self._changed.notify_all()
        except Exception:  # noqa: BLE001 - gRPC raises a bare one when the call is cancelled
            self.ended.set()
        self._outbox.put(None)

    def responses(self, context: Any) -> Iterator[pb.WatchResponse]:
        """Yield the events that the test queued."""
        while (message := self._outbox.get()) is not None:
            if isinstance(message, Refusal):
                code, details, trailing = refusal_status(message)
                context.set_trailing_metadata(trailing)
                context.set_code(code)
                context.set_details(details)
                break
            yield message
        self.ended.set()


@dataclass
class ScriptedWatches:
    """All watch streams of a scripted peer. Subscriptions are confirmed automatically unless `arms` is false."""

    arms: bool = True
    refusal: Refusal | None = None
    streams: list[WatchStream] = field(default_factory=list)
    on_request: Callable[[pb.WatchRequest], None] = lambda _: None

    def serve(self, requests: Iterator[pb.WatchRequest], context: Any) -> Iterator[pb.WatchResponse]:
        """Serve one stream."""
        stream = WatchStream(self._note)
        context.send_initial_metadata(())
        context.add_callback(stream.end)
        threading.Thread(target=stream.receive, args=(requests,), daemon=True).start()
        self.streams.append(stream)
        if self.refusal is not None:
            stream.end(self.refusal)
        elif self.arms:
            stream.arm()
        yield from stream.responses(context)

    def _note(self, request: pb.WatchRequest) -> None:
        self.on_request(request)

    @property
    def last(self) -> WatchStream:
        """The newest stream."""
        return self.streams[-1]


@pytest.fixture
def watches(scripted: ScriptedPeer) -> ScriptedWatches:
    """The watch streams of the scripted peer."""
    scripted.service.watches = ScriptedWatches().serve
    made: ScriptedWatches = scripted.service.watches.__self__  # type: ignore[attr-defined]
    return made


@asynccontextmanager
async def watching(
    directory: Path,
    *records: PeerRecord,
    settings: WatchSettings = QUICK,
    clock: Clock = SYSTEM_CLOCK,
    source: ListedPeers | None = None,
    **config: Any,
) -> AsyncIterator[Federation]:
    """A federation that watches these peers."""
    config.setdefault("client", ClientConfig(watch=True))
    made = config_of(directory, **config)
    home = ClientRuntime.share(made, clock, None)
    home.watch_settings = settings
    try:
        fed = await Federation(made, source or ListedPeers(*records), clock=clock).start()
    finally:
        if home.release():
            home.close()
    try:
        yield fed
    finally:
        await fed.close()


async def until_watch(fed: Federation, state: WatchState = WatchState.ARMED, name: str = "work.example") -> None:
    """Wait until the watch of a peer is in a state."""
    await eventually(lambda: fed.peer_state(name).watch is state)


@pytest_asyncio.fixture
async def watched_fed(tmp_path: Path, scripted: ScriptedPeer, watches: ScriptedWatches) -> AsyncIterator[Federation]:
    """A federation whose watch of the scripted peer is armed."""
    del watches  # must serve before the federation dials
    async with watching(tmp_path, scripted.record()) as fed:
        await until_watch(fed)
        yield fed
