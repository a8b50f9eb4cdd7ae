"""An outcome against its entry: every difference in a sentence. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.faults.entries import Entry
from tests.faults.outcome import Answer, Outcome
from tests.faults.questions import QUESTIONS

DEFECTS = frozenset({"defect", "task_failed", "ledger_failed", "settlement_deferred"})
"""Log events that no fault may lead to, unless the entry's driver says so."""

DONE = b"data: [DONE]\n\n"
SHOWN = 400


def differences(entry: Entry, outcome: Outcome) -> list[str]:
    """What is not as the matrix says; empty where all is well."""
    return [*_answers(entry, outcome), *_upstream(entry, outcome), *_ledger(entry, outcome), *always(outcome)]


def always(outcome: Outcome) -> Iterator[str]:
    """What must hold after any fault."""
    yield from (f"the ledger's books: {broken}" for broken in outcome.broken)
    yield from (f"{count} {name} left" for name, count in outcome.left.items() if count)
    for row in outcome.rows:
        if row["state"] == "open":
            yield f"an open row: {row}"
    for event in outcome.events:
        if event.get("event") in DEFECTS:
            yield f"the log says {event['event']}: {event.get('error')} {event.get('traceback', '')}"
        if event.get("event") is None:
            yield f"not a log line: {event}"
    for answer in outcome.answers:
        if answer.more:
            yield f"more came behind the answer: {answer.more[:SHOWN]!r}"
    yield from uncovered(outcome.rows, outcome.billed)


def uncovered(rows: list[dict[str, Any]], billed: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Nano-USD that the upstream bills and no row of the same request id answers for, and rows that claim more than
    was billed."""
    by_id = {row["request_id"]: row for row in rows}
    if len(by_id) != len(rows):
        yield "a request id has two rows"
    for row in rows:
        if row["state"] == "voided" and (row["cost_nusd"] or row["unresolved_nusd"]):
            yield f"voided, and yet it may have cost: {row}"
    for request_id, by_model in billed.items():
        row, total = by_id.get(request_id), sum(by_model.values())
        if row is None:
            yield f"{request_id} was billed {total} and is not in the ledger"
            continue
        covered = 0 if row["state"] == "voided" else row["cost_nusd"] + row["unresolved_nusd"]
        if row["usage_source"] == "estimated":
            covered = max(covered, row["hold_nusd"] + row["unresolved_nusd"])
        if covered < total:
            yield f"{request_id} was billed {total}, its row answers for {covered}: {row}"
        served = by_model.get(row["model_served"] or "", 0)
        if row["state"] == "settled" and row["usage_source"] != "estimated" and row["cost_nusd"] != served:
            yield f"{request_id} settled at {row['cost_nusd']}, its model billed {served}: {row}"


def _answers(entry: Entry, outcome: Outcome) -> Iterator[str]:
    if len(outcome.answers) != len(entry.client):
        yield f"{len(outcome.answers)} answers instead of {len(entry.client)}: {outcome.answers}"
        return
    for wanted, got in zip(entry.client, outcome.answers, strict=True):
        for difference in _answer(entry, wanted, got, outcome.unfaulted):
            yield f"client: {difference}; it got {got.status} {got.body[:SHOWN]!r}"


def _answer(entry: Entry, wanted: Mapping[str, Any], got: Answer, unfaulted: str | None) -> Iterator[str]:
    if got.status != wanted["status"]:
        yield f"status {got.status} instead of {wanted['status']}"
        return
    if got.status == 0:
        return
    if got.whole != wanted.get("whole", True):
        yield f"the body is {'whole' if got.whole else 'cut off'}"
    if "code" in wanted:
        yield from _error(got.body, wanted["code"])
    yield from _body(entry, wanted, got, unfaulted)
    if "model" in wanted:
        model = QUESTIONS[entry.endpoint].model(wanted["model"])
        if got.headers.get("x-oxyy-model") != model:
            yield f"answered by {got.headers.get('x-oxyy-model')} instead of {model}"
    for name, value in wanted.get("headers", {}).items():
        if got.headers.get(name, "") != value:
            yield f"header {name} is {got.headers.get(name)!r} instead of {value!r}"
    if "within_ms" in wanted and got.took_s * 1000 > wanted["within_ms"]:
        yield f"it took {got.took_s * 1000:.0f} ms"


def _body(entry: Entry, wanted: Mapping[str, Any], got: Answer, unfaulted: str | None) -> Iterator[str]:
    if "body" in wanted:
        if wanted["body"] != "upstream":
            if got.body != wanted["body"].encode():
                yield f"the body is not {wanted['body']!r}"
        elif hashlib.sha256(got.body).hexdigest() != unfaulted:
            yield "the body is not the upstream's"
    if "bytes" in wanted and not _within(len(got.body), wanted["bytes"]):
        yield f"{len(got.body)} bytes instead of {wanted['bytes']}"
    yield from (f"{text!r} is not in the body" for text in wanted.get("contains", ()) if text.encode() not in got.body)
    yield from (f"{text!r} is in the body" for text in wanted.get("lacks", ()) if text.encode() in got.body)
    if entry.stream and got.status == 200:
        yield from _stream(wanted, got.body)


def _stream(wanted: Mapping[str, Any], body: bytes) -> Iterator[str]:
    done = body.endswith(DONE)
    if done != wanted.get("done", "error_event" not in wanted):
        yield f"the stream {'ends' if done else 'does not end'} with [DONE]"
    if "error_event" in wanted:
        last = body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
        yield from _error(last.removeprefix(b"data: "), wanted["error_event"])
        if not body.endswith(b"\n\n"):
            yield "the last event is not ended"


def _error(body: bytes, code: str) -> Iterator[str]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        yield f"no error in {body[:SHOWN]!r}"
        return
    if error.get("code") != code:
        yield f"error code {error.get('code')!r} instead of {code!r}"
    if set(error) != {"message", "type", "param", "code"} or not error["message"]:
        yield f"an error that is not as the README lists it: {error}"


def _upstream(entry: Entry, outcome: Outcome) -> Iterator[str]:
    wanted, got = entry.upstream, [call.model for call in outcome.calls]
    if "calls" in wanted and not _within(len(got), wanted["calls"]):
        yield f"upstream: {len(got)} calls instead of {wanted['calls']}: {got}"
    if "models" in wanted:
        models = [QUESTIONS[entry.endpoint].model(name) for name in wanted["models"]]
        if got != models:
            yield f"upstream: asked {got} instead of {models}"
    if "connections" in wanted and not _within(outcome.connections or 0, wanted["connections"]):
        yield f"upstream: {outcome.connections} connections instead of {wanted['connections']}"


def _ledger(entry: Entry, outcome: Outcome) -> Iterator[str]:
    wanted = [each for each in entry.ledger if each["state"] != "none"]
    if len(outcome.rows) != len(wanted):
        yield f"ledger: {len(outcome.rows)} rows instead of {len(wanted)}: {outcome.rows}"
        return
    for at, (table, row) in enumerate(zip(wanted, outcome.rows, strict=True)):
        client = entry.client[min(at, len(entry.client) - 1)]
        code = table.get("code", client.get("error_event", client.get("code")))
        if row["state"] != table["state"]:
            yield f"ledger: {row['state']} instead of {table['state']}: {row}"
        if code is not None and (row["error_code"] or "") != code:
            yield f"ledger: error_code {row['error_code']} instead of {code}"
        if "attempts" in table and row["attempts"] != table["attempts"]:
            yield f"ledger: {row['attempts']} attempts instead of {table['attempts']}"
        if not _charged(table["charged"], row, outcome.billed.get(row["request_id"], {})):
            yield f"ledger: not charged {table['charged']}: {row}; billed: {outcome.billed}"


def _charged(how: str | int, row: Mapping[str, Any], billed: Mapping[str, int]) -> bool:
    cost, held, source = row["cost_nusd"], row["unresolved_nusd"], row["usage_source"]
    served = billed.get(row["model_served"] or "", -1)
    if isinstance(how, int):
        return (cost, held) == (how, 0)
    return {
        "bill": cost == served > 0 == held,
        "nothing": cost == held == 0,
        "held": cost == 0 < held and held >= sum(billed.values()),
        "bill+held": cost == served > 0 and held > 0,
        "estimated": 0 < cost <= row["hold_nusd"] and held == 0 and source == "estimated",
    }[how]


def _within(figure: int, wanted: int | list[int]) -> bool:
    least, most = wanted if isinstance(wanted, list) else (wanted, wanted)
    return least <= figure <= most
