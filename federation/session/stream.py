"""The stream of the answers to one request."""

from typing import Self

from federation.errors import FederationError
from federation.session.fanout import FanOut
from federation.session.results import Answer, Result


class AnswerStream:
    """An async iterator of one `Answer` per source, with a `result` after its end.

    Leaving the `async with` block early, or dropping the stream, cancels the requests in progress.
    """

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out
        self._ended = False

    @property
    def result(self) -> Result:
        """The summary of an ended stream. Its page token continues after every row that was yielded."""
        self._require_end()
        return self._fan_out.unmerged()

    def merged(self) -> Result:
        """Return the merged answers of an ended stream, with a page token that continues after the merged rows."""
        self._require_end()
        return self._fan_out.merged()

    def close(self) -> None:
        """Cancel the requests in progress. May be called twice."""
        self._fan_out.cancel()

    async def aclose(self) -> None:
        """Cancel the requests in progress, like `aclose` of an asynchronous generator."""
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Answer:
        answer = await self._fan_out.next()
        if answer is None:
            self._ended = not self._fan_out.cancelled
            raise StopAsyncIteration
        return answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        fan_out: FanOut | None = getattr(self, "_fan_out", None)
        if fan_out is not None:
            fan_out.cancel_threadsafe()

    def _require_end(self) -> None:
        if not self._ended:
            raise FederationError("the stream has not ended yet; iterate over it to its end first")
