"""A whole answer that is too large to be kept: passed on as it comes, and read for what it cost."""

from __future__ import annotations

from oxyy_proxy.endpoints.base import Ask, BytesMeter
from oxyy_proxy.errors import UpstreamBadResponse, UpstreamFailure
from oxyy_proxy.rules.slimjson import Slimmer
from oxyy_proxy.rules.types import Model, PartTokens


class LargeMeter(BytesMeter):
    """Bytes on their way to the client.

    At its end the answer is read by what `Slimmer` left of it. One that is malformed, or is an error, has not `ended`,
    and what `ask.read` raised is the `failure`. `output_bytes` is until then what was left out of long strings.
    """

    __slots__ = ("_ask", "_model", "_parts", "_slimmer")

    def __init__(self, ask: Ask, model: Model, parts: PartTokens) -> None:
        super().__init__()
        self._ask = ask
        self._model = model
        self._parts = parts
        self._slimmer = Slimmer()

    def feed(self, data: bytes) -> bytes:
        self._slimmer.feed(data)
        self.output_bytes = self._slimmer.dropped_bytes
        return super().feed(data)

    def finish(self) -> bytes:
        if self.started and not (self.ended or self.failure):
            try:
                self._read()
            except UpstreamFailure as failure:
                self.failure = failure
        return b""

    def _read(self) -> None:
        """Read the whole by what is left of it. Raises UpstreamFailure."""
        slim = self._slimmer.finish()
        self.output_bytes = self._slimmer.dropped_bytes
        if not self._slimmer.overflowed:
            answer = self._ask.read(slim, self._model, self._parts)
            if answer.job is not None:  # its id would have to be on record before the client has it
                raise UpstreamBadResponse("The upstream told of a job at a length that cannot be read. Retry.")
            self.usage = answer.usage
            self.output_bytes += answer.output_bytes
        self.ended = True
