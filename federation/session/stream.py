"""The answers of one request as they come."""

from typing import Self

from federation.errors import FederationError
from federation.session.fanout import FanOut
from federation.session.results import Answer, Result

__all__ = ["AnswerStream"]


class AnswerStream:
    """An async iterator of `Answer`, one a source, and after its end a `result`.

    Leaving early, by `async with` or by dropping the stream, cancels what is under way.
    """

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out
        self._ended = False

    @property
    def result(self) -> Result:
        """The summary of a stream that has ended: its page token goes on behind every row that was yielded."""
        self._require_end()
        return self._fan_out.unmerged()

    def merged(self) -> Result:
        """Return the answers of a stream that has ended in one order, with the page token that goes on behind that."""
        self._require_end()
        return self._fan_out.merged()

    def close(self) -> None:
        """Cancel what is under way. Twice is fine."""
        self._fan_out.cancel()

    async def aclose(self) -> None:
        """Cancel what is under way, as for any asynchronous iterator."""
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
            fan_out.drop()

    def _require_end(self) -> None:
        if not self._ended:
            raise FederationError("the stream has not come to its end yet")
