"""A proxy and a simulator in this process for one entry, and all that can be known of what came of it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError

from oxyy_proxy.ledger.sqlite_reads import verify
from oxyy_proxy.simulator import BillEntry, Simulator
from tests.faults.entries import Entry
from tests.faults.outcome import Answer, Call, Outcome
from tests.faults.questions import QUESTIONS
from tests.rig import KEY, ORG_KEY, Rig
from tests.steps.wires import WAIT_S, Wire, dial, request, until

GATEWAY: Mapping[str, Any] = {"version": 1, "drain": "1s", "retry": {"first_byte": "5s", "answer": "5s", "idle": "5s"}}

VIDEO_JOBS = "/v1/videos/generations/"

_AIOHTTP = logging.getLogger("oxyy_proxy.http")


@dataclass
class Stage(Rig):
    """A Rig that keeps what the proxy logs, and every exception that nobody caught, in `events()`."""

    settings: dict[str, Any] = field(default_factory=dict)

    async def start(self) -> Stage:
        self._said = io.BytesIO()
        self._escaped: list[dict[str, Any]] = []
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self._escape(context.get("exception"), context["message"]))
        self._handler = _Exceptions(self)
        _AIOHTTP.addHandler(self._handler)
        await super().start()
        return self

    async def start_proxy(self) -> None:
        text = io.TextIOWrapper(self._said)
        with redirect_stdout(text):  # the log writes to what stdout is when it is made
            await super().start_proxy()
        text.detach()

    async def stop(self) -> None:
        await super().stop()
        _AIOHTTP.removeHandler(self._handler)
        self._loop.set_exception_handler(None)

    def events(self) -> list[dict[str, Any]]:
        """What the log says so far, and what nobody caught as `defect`."""
        self.proxy.log.flush()
        return [_event(line) for line in self._said.getvalue().splitlines()] + self._escaped

    def _escape(self, error: BaseException | None, message: str) -> None:
        self._escaped.append({"event": "defect", "error": f"{message}: {error!r}"})


class _Exceptions(logging.Handler):
    """Notes what aiohttp's server caught in place of a handler of ours."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, HttpProcessingError | ConnectionError):
            self._stage._escape(error, record.getMessage())


def policies(entry: Entry, chain: Sequence[str] = ()) -> tuple[str, str]:
    """gateway.yaml and models.yaml of this entry (JSON is YAML). `chain`: chat models that follow one on the other, in
    place of the question's two."""
    gateway = {**GATEWAY, **entry.policy, "retry": {**GATEWAY["retry"], **entry.policy.get("retry", {})}}
    models: dict[str, Any] = {}
    for question in QUESTIONS.values():
        for name, price in question.prices.items():
            models[name] = {
                "endpoints": list(question.endpoints),
                "price": {unit: float(amount) for unit, amount in price.items()},
                "fallbacks": [question.spare] if entry.fallback and name == question.main else [],
            }
    for at, name in enumerate(chain):
        models[name] = {**models["gpt-5"], "fallbacks": list(chain[at + 1 :])}
    return json.dumps(gateway), json.dumps({"version": 1, "models": models})


@asynccontextmanager
async def stage(
    entry: Entry, folder: Path, upstream_url: str = "", chain: Sequence[str] = (), **options: Any
) -> AsyncIterator[Stage]:
    """A started Stage with the policies of this entry; its upstream is a simulator unless another URL is given."""
    gateway, models = policies(entry, chain)
    prices = {name: price for question in QUESTIONS.values() for name, price in question.prices.items()}
    prices |= dict.fromkeys(chain, prices["gpt-5"])
    simulator = Simulator(prices=prices, org_key=ORG_KEY, job_s=0)
    rig = Stage(folder, gateway, models, upstream_url=upstream_url, simulator=simulator, **options)
    await rig.start()
    try:
        yield rig
    finally:
        await rig.stop()


async def ask(wire: Wire, entry: Entry) -> Answer:
    """Ask the entry's question on this connection, and hear its answer to the end."""
    question, do = QUESTIONS[entry.endpoint], entry.do
    content_type, body = question.body(stream=entry.stream, wishes=do.get("wishes"), pad=do.get("pad_bytes", 0))
    sent = request(body, path=question.path, headers={"Content-Type": content_type})
    began = monotonic()
    sending = asyncio.get_running_loop().create_task(_send(wire, sent))  # the answer may come before all is sent
    try:
        return await hear(wire, began)
    finally:
        await sending


async def _send(wire: Wire, data: bytes) -> None:
    with suppress(ConnectionError):
        await wire.send(data)


async def hear(wire: Wire, began: float) -> Answer:
    """The next answer on this connection."""
    try:
        heard = await wire.answer()
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(0, took_s=monotonic() - began)
    return Answer(heard.status, heard.headers, heard.body, heard.whole, took_s=monotonic() - began)


async def more(wire: Wire, answer: Answer) -> bytes:
    """What comes on the connection behind the answer without being asked for: where it stays open, the next bytes must
    be the answer to the next question."""
    if answer.status == 0 or not answer.whole:
        return b""
    try:
        if answer.headers.get("connection") == "close":
            return await asyncio.wait_for(wire.reader.read(), WAIT_S)
        await wire.send(request(method="GET", path="/v1/usage"))
        head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), WAIT_S)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    # Its length is read from the head; what would be wrong with it is not this test's business.
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    body = await asyncio.wait_for(wire.reader.readexactly(length), WAIT_S)
    return b"" if head.startswith(b"HTTP/1.1 200 ") and b'"limits"' in body else head + body


async def ask_once(rig: Rig, entry: Entry) -> Answer:
    """The question of this entry on a connection of its own; a video's job is followed to its end."""
    async with dial(rig) as wire:
        answer = await ask(wire, entry)
        behind = await more(wire, answer)
    if entry.endpoint == "videos" and answer.status == 200:
        await rig.get(f"/videos/generations/{json.loads(answer.body)['id']}", KEY)
    return replace(answer, more=behind)


async def at_rest(rig: Rig) -> dict[str, int]:
    """What is still in flight or buffered once nothing changes any more; waits for it to be nothing."""
    services = rig.proxy.services

    def left() -> dict[str, int]:
        return {
            "requests running": len(services.running),
            "places of teams taken": sum(services.of_team.values()),
            "bytes buffered": services.buffers.memory_bytes + services.buffers.disk_bytes,
            "requests in the simulator": rig.simulator.in_flight,
            "open rows": sum(row["state"] == "open" for row in rig.rows()),
        }

    with suppress(TimeoutError):
        await until(lambda: not any(left().values()))
    return left()


async def outcome_of(
    rig: Stage,
    answers: list[Answer],
    *,
    calls: list[Call] | None = None,
    billed: Mapping[str, Mapping[str, int]] | None = None,
    connections: int | None = None,
) -> Outcome:
    """All that came of it. Calls and bill are the simulator's unless they are given."""
    left = await at_rest(rig)
    simulator = rig.simulator
    sent = [digest for path, _, _, digest in simulator.sent if not path.startswith(VIDEO_JOBS)]
    verdict = await verify(f"sqlite:///{rig.ledger_path}")
    if calls is None:
        calls = [Call(_model(body)) for headers, body in simulator.received if "content-length" in headers]
    return Outcome(
        answers=answers,
        calls=calls,
        billed=bill_of(simulator.bill) if billed is None else billed,
        rows=rig.rows(),
        events=rig.events(),
        broken=verdict.broken,
        left=left,
        connections=connections,
        unfaulted=sent[-1] if sent else None,
    )


def bill_of(entries: list[BillEntry]) -> dict[str, dict[str, int]]:
    """Nano-USD by request id and model."""
    billed: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for each in entries:
        if each.billed:
            by_model = billed[each.request_id or ""]
            by_model[each.model] = by_model.get(each.model, 0) + each.cost_nusd
    return dict(billed)


def _model(body: bytes) -> str:
    """Of a request: a member of JSON, or a field of a form."""
    try:
        return str(json.loads(body)["model"])
    except ValueError:
        return body.partition(b'name="model"\r\n\r\n')[2].partition(b"\r\n")[0].decode()


def _event(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {"event": None, "line": line.decode(errors="replace")}
    return found if isinstance(found, dict) else {"event": None, "line": line.decode(errors="replace")}
