"""A whole answer that is too large to be kept: passed on as it comes, and read for what it cost."""

from __future__ import annotations

from oxyy_proxy.endpoints.base import Ask
from oxyy_proxy.errors import UpstreamBadResponse, UpstreamFailure
from oxyy_proxy.rules.slimjson import Slimmer
from oxyy_proxy.rules.types import Model, PartTokens, Usage


class LargeMeter:
    """Bytes on their way to the client (see `StreamMeter`): all but the last, which waits for the settlement, so that
    nobody has the whole of what is not yet charged.

    At its end the answer is read by what `Slimmer` left of it. One that is malformed, or is an error, has not `ended`,
    and what `ask.read` raised is the `failure`. `output_bytes` is until then what was left out of long strings.
    """

    __slots__ = (
        "_ask",
        "_model",
        "_parts",
        "_slimmer",
        "ended",
        "failure",
        "farewell",
        "output_bytes",
        "started",
        "usage",
    )

    events = False
    promised = None
    mid_event = False

    def __init__(self, ask: Ask, model: Model, parts: PartTokens) -> None:
        self._ask = ask
        self._model = model
        self._parts = parts
        self._slimmer = Slimmer()
        self.started = False
        self.ended = False
        self.failure: UpstreamFailure | None = None
        self.usage: Usage | None = None
        self.farewell = b""
        self.output_bytes = 0

    def feed(self, data: bytes) -> bytes:
        if not data:
            return b""
        self.started = True
        self._slimmer.feed(data)
        self.output_bytes = self._slimmer.dropped_bytes
        kept, self.farewell = self.farewell, data[-1:]
        return kept + data[:-1]

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
