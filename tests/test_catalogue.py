"""What the upstream says of its models: asked for when somebody wants it, and never waited for twice."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from oxyy_proxy import catalogue as module
from oxyy_proxy.catalogue import RETRY_S, STALE_S, Catalogue, Described
from oxyy_proxy.endpoints import ENDPOINTS, models
from oxyy_proxy.observe import Log
from oxyy_proxy.sweep import Sweeper
from oxyy_proxy.upstream import Upstream
from tests.rig import ORG_KEY, Rig
from tests.rules.policies import model, policy, team
from tests.steps.wires import WAIT_S, RawAnswer, RawUpstream, ask, http, raw_upstream, says, until

GPT_5 = {"id": "gpt-5", "object": "model", "created": 7, "owned_by": "them"}
KNOWN = {"gpt-5": GPT_5}


def listed(*entries: object) -> RawAnswer:
    return says(http(json.dumps({"object": "list", "data": entries}).encode()))


class Clock:
    """Of what is stale; the time of waits is the loop's own."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "monotonic", lambda: made.now)
    return made


class Running(SimpleNamespace):
    catalogue: Catalogue
    server: RawUpstream
    out: io.BytesIO

    @property
    def lines(self) -> list[dict[str, Any]]:
        self.log.flush()
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    async def asked(self, times: int) -> None:
        """As often as that, and all of it has been heard."""
        await until(lambda: len(self.server.seen) == times and not self.catalogue._wanted.is_set())


@asynccontextmanager
async def running(*answers: RawAnswer, url: str = "") -> AsyncIterator[Running]:
    sweeper = Sweeper()
    async with raw_upstream(*answers) as server:
        upstream = Upstream(url or server.url, ORG_KEY, sweeper)
        log = Log(out=(out := io.BytesIO()))
        made = Catalogue(upstream, log)
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(made.run()), loop.create_task(sweeper.run())]
        yield Running(catalogue=made, server=server, out=out, log=log)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await upstream.close()


async def test_nothing_is_asked_before_somebody_wants_to_know() -> None:
    async with running(listed(GPT_5)) as run:
        for _ in range(100):
            await asyncio.sleep(0)
        assert (run.server.connections, run.lines) == (0, [])


async def test_the_first_who_wants_to_know_waits_for_the_answer_and_the_next_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", WAIT_S)
    async with running(listed(GPT_5, {"id": "ada", "x": [1]})) as run:
        for _ in range(3):
            assert await run.catalogue.described() == {**KNOWN, "ada": {"id": "ada", "x": [1]}}
        ((head, body),) = run.server.seen
        assert head.startswith(b"GET /v1/models HTTP/1.1\r\n")
        assert body == b""
        assert run.lines == []


async def _waits_for(event: asyncio.Event, then: RawAnswer, writer: asyncio.StreamWriter) -> None:
    await event.wait()
    await then(writer)


def after(event: asyncio.Event, then: RawAnswer) -> RawAnswer:
    return lambda writer: _waits_for(event, then, writer)


def _at_once(described: Awaitable[Described]) -> Described:
    """What is answered without waiting for anything."""
    try:
        described.__await__().send(None)  # type: ignore[attr-defined]
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


async def test_an_answer_that_is_late_is_waited_for_once_and_then_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    go = asyncio.Event()
    async with running(after(go, listed(GPT_5))) as run:
        assert await run.catalogue.described() == {}
        assert _at_once(run.catalogue.described()) == {}
        go.set()
        await run.asked(1)
        assert _at_once(run.catalogue.described()) == KNOWN


async def test_who_gives_up_waiting_leaves_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", WAIT_S)
    go = asyncio.Event()
    async with running(after(go, listed(GPT_5))) as run:
        first, second = (asyncio.create_task(run.catalogue.described()) for _ in range(2))
        await until(lambda: len(run.server.seen) == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not second.done()
        go.set()
        assert await second == KNOWN


async def test_a_hundred_at_once_ask_once() -> None:
    async with running(listed(GPT_5)) as run:
        assert await asyncio.gather(*(run.catalogue.described() for _ in range(100))) == [KNOWN] * 100
        await run.asked(1)
        assert run.server.connections == 1


async def test_what_is_stale_is_asked_for_behind_the_answer(clock: Clock) -> None:
    newer = {**GPT_5, "owned_by": "others"}
    go = asyncio.Event()
    async with running(listed(GPT_5), after(go, listed(newer)), listed({"id": "other"})) as run:
        await run.catalogue.described()
        await run.asked(1)
        clock.now += STALE_S - 1
        assert _at_once(run.catalogue.described()) == KNOWN
        assert not run.catalogue._wanted.is_set()
        clock.now += 1
        for _ in range(100):
            assert _at_once(run.catalogue.described()) == KNOWN
        await until(lambda: len(run.server.seen) == 2)
        assert _at_once(run.catalogue.described()) == KNOWN  # it is being asked for already
        go.set()
        await run.asked(2)
        assert _at_once(run.catalogue.described()) == {"gpt-5": newer}
        assert not run.catalogue._wanted.is_set()
        clock.now += STALE_S
        run_on = run.catalogue.described()
        assert _at_once(run_on) == {"gpt-5": newer}
        await run.asked(3)
        assert _at_once(run.catalogue.described()) == {"other": {"id": "other"}}


FAILURES: dict[str, tuple[RawAnswer, str]] = {
    "cut off": (says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), "upstream_reset"),
    "not HTTP": (says(b"nonsense\r\n\r\n"), "upstream_bad_response"),
    "500": (says(http(b'{"data": [{"id": "no"}]}', "500 Oh")), "upstream_500"),
    "401": (says(http(ORG_KEY.encode(), "401 No")), "upstream_401"),
    "302": (says(http(b"", "302 Elsewhere", "text/html", f"Location: http://x/{ORG_KEY}")), "upstream_302"),
    "not JSON": (says(http(b"<html>" + ORG_KEY.encode())), "upstream_bad_response"),
    "no object": (says(http(b"[]")), "upstream_bad_response"),
    "an error": (says(http(b'{"error": {"message": "no"}}')), "upstream_bad_response"),
    "no data": (says(http(b'{"object": "list"}')), "upstream_bad_response"),
    "data that is no list": (says(http(b'{"data": {"id": "gpt-5"}}')), "upstream_bad_response"),
    "entries that are no objects": (listed("gpt-5", 1, None, ["id"]), "upstream_bad_response"),
    "entries without id": (listed({}, {"id": None}, {"id": 1}, {"id": ["x"]}), "upstream_bad_response"),
    "entries that cannot be told": (says(http(b'{"data": [{"id": "x", "y": "\\ud83c"}]}')), "upstream_bad_response"),
}


@pytest.mark.parametrize(("answer", "reason"), FAILURES.values(), ids=FAILURES)
async def test_what_was_known_stays_where_asking_fails_and_one_line_tells_why(
    answer: RawAnswer, reason: str, clock: Clock
) -> None:
    async with running(listed(GPT_5), answer) as run:
        await run.catalogue.described()
        await run.asked(1)
        clock.now += STALE_S
        assert _at_once(run.catalogue.described()) == KNOWN
        await until(lambda: not run.catalogue._wanted.is_set())
        assert _at_once(run.catalogue.described()) == KNOWN
        (line,) = run.lines
        assert (line["event"], line["reason"]) == ("models_not_refreshed", reason)
        assert line.keys() == {"at", "level", "event", "reason"}
        assert ORG_KEY not in run.out.getvalue().decode()


async def test_who_failed_is_asked_again_sooner(clock: Clock) -> None:
    async with running(says(http(b"", "500 Oh")), listed(GPT_5)) as run:
        assert await run.catalogue.described() == {}
        await run.asked(1)
        clock.now += RETRY_S - 1
        assert _at_once(run.catalogue.described()) == {}
        clock.now += 1
        assert _at_once(run.catalogue.described()) == {}
        await run.asked(2)
        assert _at_once(run.catalogue.described()) == KNOWN
        assert len(run.lines) == 1


async def test_an_upstream_that_is_not_there_is_no_reason_to_fail() -> None:
    async with running(listed(GPT_5), url="http://127.0.0.1:1/v1") as run:
        assert await run.catalogue.described() == {}
        assert [line["reason"] for line in run.lines] == ["upstream_unreachable"]


async def test_an_upstream_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    monkeypatch.setattr(module, "ANSWER_S", 0.1)
    async with running(after(asyncio.Event(), listed(GPT_5))) as run:
        assert await run.catalogue.described() == {}
        await run.asked(1)
        assert [line["reason"] for line in run.lines] == ["upstream_timeout"]


DEEP = "[" * 500 + "]" * 500
UNTOLD = [
    '{"id": "x", "y": "\\ud83c"}',
    f'{{"id": "x", "y": {DEEP}}}',
    '{"id": "\\ud83c"}',
    '{"id": "x", "\\ud83c": 1}',
]


@pytest.mark.parametrize("entry", ["1", "null", "{}", '{"id": 7}', *UNTOLD], ids=range(8))
async def test_one_odd_entry_does_not_cost_the_others(entry: str) -> None:
    body = f'{{"data": [{entry}, {json.dumps(GPT_5)}, {entry}]}}'.encode()
    async with running(says(http(body))) as run:
        described = await run.catalogue.described()
        assert described == KNOWN
        of = policy(model("gpt-5"), model("x"))
        assert models.listing(of, team(), ENDPOINTS, described)["data"][0] == GPT_5


async def test_an_upstream_without_models_is_believed(clock: Clock) -> None:
    async with running(listed(GPT_5), listed()) as run:
        await run.catalogue.described()
        await run.asked(1)
        clock.now += STALE_S
        await run.catalogue.described()
        await run.asked(2)
        assert await run.catalogue.described() == {}
        assert run.lines == []


async def test_a_team_is_told_of_its_own_models_what_the_upstream_says(make_rig: Callable[..., Any]) -> None:
    secret = {"id": "secret", "object": "model", "owned_by": "them"}
    async with raw_upstream(listed({**GPT_5, "context_window": 9}, secret)) as server:
        rig: Rig = await make_rig(upstream_url=server.url)
        heard = await ask(rig, method="GET", path="/v1/models")
        entries = {entry["id"]: entry for entry in heard.json["data"]}
        assert entries["gpt-5"] == {**GPT_5, "context_window": 9}
        assert entries["gpt-5-mini"]["owned_by"] == "oxyy"
        assert "secret" not in entries
        assert (await ask(rig, method="GET", path="/v1/models/gpt-5")).json == {**GPT_5, "context_window": 9}
        assert (await ask(rig, method="GET", path="/v1/models/secret")).status == 404
        assert len(server.seen) == 1
