"""What the simulated upstream charges, kept in memory: the oracle that a proxy's own books must equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from .answers import Usage


@dataclass(frozen=True, slots=True)
class BillEntry:
    """One accepted request.

    `status` is what the client is sent, 0 where not even a status line is. Tokens, the other units and `cost_nusd`
    (1e-9 USD) are 0 where `billed` is false. `request_id` is the request's `x-request-id`. A video is entered when
    its job completes, with the `request_id` and `status` of its submission.
    """

    seq: int
    request_id: str | None
    endpoint: str
    model: str
    stream: bool
    status: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_nusd: int
    billed: bool
    fault: str | None
    images: int = 0
    video_ms: int = 0
    audio_ms: int = 0
    characters: int = 0

    def as_json(self) -> dict[str, object]:
        """The entry as GET /-/bill shows it."""
        return asdict(self)


class Bill:
    """The entries, in the order in which requests were accepted; `seq` counts from 1 and never starts again."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.entries: list[BillEntry] = []
        self.total_nusd = 0
        self._seq = 0
        self._changed = changed

    def add(
        self,
        *,
        request_id: str | None,
        endpoint: str,
        model: str,
        stream: bool,
        status: int,
        usage: Usage,
        cost_nusd: int,
        fault: str | None,
        billed: bool,
    ) -> BillEntry:
        """Charges a request, or notes that it was not charged."""
        self._seq += 1
        charged, cost = (usage, cost_nusd) if billed else (Usage(), 0)
        entry = BillEntry(
            self._seq, request_id, endpoint, model, stream, status,
            charged.input_tokens, charged.cached_input_tokens, charged.output_tokens, cost, billed, fault,
            charged.images, charged.video_ms, charged.audio_ms, charged.characters,
        )  # fmt: skip
        self.entries.append(entry)
        self.total_nusd += cost
        self._changed()
        return entry

    def clear(self) -> None:
        """Forgets all entries."""
        self.entries.clear()
        self.total_nusd = 0
        self._changed()

    def as_json(self, since_seq: int = 0) -> dict[str, object]:
        """`{"entries", "total_nusd"}`, both of the entries after `since_seq`."""
        entries = [entry for entry in self.entries if entry.seq > since_seq]
        return {"entries": [entry.as_json() for entry in entries], "total_nusd": sum(e.cost_nusd for e in entries)}
