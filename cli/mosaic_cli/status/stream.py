"""The stream of a gateway's status, across restarts of the gateway."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from federation.admin.client import connect
from federation.errors import FederationError, GatewayUnavailableError
from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.errors import explain

RETRY_S: Final = 0.5
STOPPED: Final = "the gateway has stopped"


class StatusSnapshot(NamedTuple):
    """The state of the stream at one moment. `at` is the monotonic time of the newest message, in seconds."""

    reply: pb.StatusResponse | None = None
    at: float = 0.0
    lost_at: datetime | None = None
    """When the gateway became unreachable; `None` while it answers."""
    problem: str = ""
    error: FederationError | None = None
    """An error that waiting does not mend, such as an unknown peer or a directory without a gateway."""


def json_lines(directory: Path, request: pb.WatchStatusRequest) -> int:
    """Print each status as a JSON object on a line, and one for each outage of the gateway, until Ctrl-C.

    Raises `FederationError` for errors that waiting does not mend.
    """
    import orjson

    from mosaic_cli.status import shapes as status_shapes

    lost = False
    try:
        for reply in _messages(directory, request, time.sleep):
            if isinstance(reply, pb.StatusResponse):
                lost, shape = False, status_shapes.status(reply)
            elif lost:
                continue
            else:
                lost, shape = True, status_shapes.unreachable(_now(), reply)
            sys.stdout.write(f"{orjson.dumps(shape).decode()}\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    return 0


class Feed:
    """Updates a snapshot in a thread, and writes a byte to `wake` after each change. Use it as a context manager."""

    def __init__(self, directory: Path, request: pb.WatchStatusRequest, wake: int) -> None:
        self._directory, self._request, self._wake = directory, request, wake
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._cancel: Callable[[], object] = bool
        self.snapshot = StatusSnapshot()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._cancel()
        self._thread.join(2 * RETRY_S)

    def _run(self) -> None:
        try:
            for reply in _messages(self._directory, self._request, self._closed.wait, self._set_call):
                if isinstance(reply, pb.StatusResponse):
                    self._publish(StatusSnapshot(reply, time.monotonic()))
                else:
                    lost_at = self.snapshot.lost_at or _now()
                    self._publish(self.snapshot._replace(lost_at=lost_at, problem=reply))
        except FederationError as e:
            if not self._closed.is_set():
                self._publish(self.snapshot._replace(error=e))

    def _publish(self, snapshot: StatusSnapshot) -> None:
        self.snapshot = snapshot
        if not self._closed.is_set():
            with suppress(BlockingIOError):  # the socket is full, so the reader wakes anyway
                os.write(self._wake, b".")

    def _set_call(self, call: Any) -> None:
        self._cancel = call.cancel
        if self._closed.is_set():
            call.cancel()


def _messages(
    directory: Path,
    request: pb.WatchStatusRequest,
    wait: Callable[[float], object],
    on_call: Callable[[Any], None] = lambda _: None,
) -> Iterator[pb.StatusResponse | str]:
    """Yield the statuses of one connection after another, and the reason of each connection's end.

    Ends when `wait`, which is called before each further connection, returns true. Raises `FederationError` for
    errors that waiting does not mend.
    """
    while True:
        try:
            with connect(directory) as admin:
                call = admin.WatchStatus(request)
                on_call(call)
                for message in call:
                    yield message.status
            yield STOPPED
        except GatewayUnavailableError as e:
            yield explain(e)
        if wait(RETRY_S):
            return


def _now() -> datetime:
    return datetime.now(UTC)
