"""An outage, rehearsed: a proxy with somebody's policies, a simulator behind it, steady load, and what clients saw.

`rehearse` plays three phases, before the outage, in it and after it, and gives what was seen.

Every request is due at a fixed time, whether or not those before it were answered, and its latency counts from then:
a proxy that stalls cannot hide it by being asked less.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import math
import os
import secrets
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import SecretStr

from oxyy_proxy.app import Proxy
from oxyy_proxy.errors import StartupError, UpstreamFailure, UpstreamTimeout, UpstreamUnreachable
from oxyy_proxy.ledger.sqlite_reads import read_spend
from oxyy_proxy.policyfiles.folder import Folder
from oxyy_proxy.rules.types import Key, Policy, Principal, Team
from oxyy_proxy.settings import Settings
from oxyy_proxy.simulator import PriceList, Simulator
from oxyy_proxy.sweep import Sweeper
from oxyy_proxy.upstream import Upstream

BEFORE, OUTAGE, AFTER = PHASES = ("before", "outage", "after")

RUN_S, RUN_LEAST = 0.5, 5
"""How long, and how many requests at least, things must go well to be well again."""

AFTER_S = 2.0
"""The shortest time after the outage: it ends early where all is well again."""

WARM_UPS = 4
"""Requests of each kind that are sent first and not counted: they open connections and show that all is set up."""

CONTROL_S = 10.0
"""How long the simulator may be out of reach: a `refuse` shuts out those who would end it, too."""

CLOSING_S = 0.5
"""What requests in flight are given when somebody ends the rehearsal."""


class Question(NamedTuple):
    """A kind of request that clients send."""

    model: str
    path: str
    body: bytes
    stream: bool


class Answer(NamedTuple):
    """What became of one request. Spans in seconds: `due_s` since its phase began; `took_s` from when it was due to the
    end of its answer, good or bad; `late_s`: how late it was sent. `failure` is empty for a success; `status` is 0, and
    the texts are empty, where no answer came."""

    phase: str
    asked: str
    due_s: float
    took_s: float
    late_s: float
    status: int
    failure: str
    model: str = ""
    attempts: int = 0
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is rehearsed: `faults`, in their long form, in the outage; `questions` in turn, `rate` a second. Spans in
    seconds; `patience_s` is how long a client waits. `prices` are those of a simulator of its own, `simulator` is the
    origin of a running one to use instead."""

    folder: Folder
    policy: Policy
    team: Team
    questions: tuple[Question, ...]
    faults: tuple[Mapping[str, object], ...]
    prices: PriceList
    rate: float
    before_s: float
    outage_s: float
    after_s: float
    patience_s: float
    keep_limits: bool = False
    simulator: str | None = None


@dataclass(slots=True)
class Seen:
    """What was seen. `seconds` of each phase that was begun; `calls` that reached the upstream by phase and model;
    `spend`: nano-USD by phase, what is known to cost and what may. `stopped`: it was ended early."""

    answers: list[Answer] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    spend: dict[str, tuple[int, int]] = field(default_factory=dict)
    stopped: bool = False

    def of(self, phase: str) -> list[Answer]:
        """The answers to what was due in this phase, in the order in which they were due."""
        return sorted((a for a in self.answers if a.phase == phase), key=lambda answer: answer.due_s)


Watch = Callable[[str, float, float, Sequence[Answer]], None]
"""Is told how it goes: the phase, seconds since it began, how many it has at most, and all answers so far."""


def admitting(policy: Policy, team: Team, sha256: str, *, keep_limits: bool) -> Policy:
    """The policy as the rehearsal uses it: one key of this team, and no limits unless they are to be kept."""
    if not keep_limits:
        team, policy = replace(team, limits=()), replace(policy, limits=())
    principal = Principal(team, Key("rehearsal", sha256))
    return replace(policy, teams={**policy.teams, team.name: team}, keys={sha256: principal})


async def rehearse(plan: Plan, watch: Watch, stop: asyncio.Event) -> Seen:
    """Play the plan to its end, or until `stop`. Raises StartupError; nothing is left behind."""
    with tempfile.TemporaryDirectory(prefix="oxyy-rehearse-") as name:
        folder = Path(name)
        for file, raw in plan.folder.files.items():
            (folder / "policies" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "policies" / file).write_bytes(raw)
        ledger = f"sqlite:///{folder}/ledger.db"
        async with _staged(plan, folder / "policies", ledger) as (client, control):
            await (player := _Player(plan, client, control, watch, stop)).play()
        spend = await read_spend(ledger, ["tag"])
        player.seen.spend = {row.group[0]: (row.cost_nusd, row.unresolved_nusd) for row in spend}
        return player.seen


@contextlib.asynccontextmanager
async def _staged(plan: Plan, policies: Path, ledger: str) -> AsyncIterator[tuple[Upstream, _Control]]:
    """A client of a proxy before a simulator, and the control of the latter."""
    key = f"ok_rehearsal_{secrets.token_urlsafe(24)}"
    async with contextlib.AsyncExitStack() as stack:
        own = None
        if plan.simulator is None:
            own = Simulator(plan.prices, received_kept=0)
            await own.start()
            stack.push_async_callback(own.stop)
        control = _Control(own.origin if own else plan.simulator or "", own)
        stack.push_async_callback(control.set, await control.greet())
        settings = Settings(
            upstream_url=f"{control.origin}/v1",
            policies=policies,
            ledger=ledger,
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            api_key=SecretStr(os.environ.get("OXYY_SIMULATOR_KEY") or "sk-simulated"),
        )
        proxy = Proxy(settings)
        with contextlib.redirect_stdout(stack.enter_context(io.TextIOWrapper(io.FileIO(os.devnull, "w")))):
            await proxy.start()  # its log keeps the stream that is standard output now
        stack.push_async_callback(_end, proxy)
        sha256 = hashlib.sha256(key.encode()).hexdigest()
        proxy.policies.policy = admitting(plan.policy, plan.team, sha256, keep_limits=plan.keep_limits)
        sweeper = Sweeper()
        sweeping = asyncio.get_running_loop().create_task(sweeper.run())
        stack.callback(sweeping.cancel)
        client = Upstream(f"http://{proxy.public.address}/v1", key, sweeper)
        stack.push_async_callback(client.close)
        yield client, control


async def _end(proxy: Proxy) -> None:
    """Whoever still waits has given up: what hangs is cut off at once."""
    proxy.policies.policy = replace(proxy.policies.policy, drain_s=0)
    await proxy.stop()


class _Player:
    """Sends the load and writes down what comes of it."""

    def __init__(self, plan: Plan, client: Upstream, control: _Control, watch: Watch, stop: asyncio.Event) -> None:
        self.seen = Seen()
        self._plan = plan
        self._client = client
        self._control = control
        self._watch = watch
        self._stop = stop
        self._asking: set[asyncio.Task[None]] = set()
        self._calls: list[tuple[str, str, str]] = []
        self._in_a_row = 0
        """Requests of the last phase that went as before the outage, since the last that did not."""

    async def play(self) -> None:
        plan, control = self._plan, self._control
        try:
            await self._warm_up()
            await self._phase(BEFORE, plan.before_s)
            if not self._stop.is_set():
                await control.set(plan.faults)
            await self._phase(OUTAGE, plan.outage_s)
            await control.set([])
            await self._phase(AFTER, plan.after_s, until=self._well_again)
            await self._rest()
            self._calls += [(AFTER, *call) for call in await control.new_calls()]
        finally:
            for task in self._asking:
                task.cancel()
            await asyncio.gather(*self._asking, return_exceptions=True)
        self.seen.stopped = self._stop.is_set()
        # A call is of the phase of its request; where nobody got an id, of the phase in which it was made.
        phase_of = {answer.request_id: answer.phase for answer in self.seen.answers if answer.request_id}
        self.seen.calls = Counter((phase_of.get(id, phase), model) for phase, id, model in self._calls)

    async def _warm_up(self) -> None:
        """Raises StartupError where something fails that should not."""
        tries = (self._ask("warm-up", question, 0, time.monotonic()) for question in self._plan.questions * WARM_UPS)
        for answer in await asyncio.gather(*tries):
            if answer.failure:
                raise StartupError(f"with nothing broken a request for {answer.asked} ends with: {answer.failure}")
        await self._control.new_calls()

    async def _phase(self, phase: str, seconds: float, until: Callable[[float], bool] = lambda _: False) -> None:
        """Send the load of one phase; does not wait for the last answers. `until` is asked whether it may end now."""
        if self._stop.is_set():
            return
        loop, plan, start = asyncio.get_running_loop(), self._plan, time.monotonic()
        for number in count():
            due_s = number / plan.rate
            if due_s >= seconds or until(due_s) or await self._stopped_before(start + due_s):
                break
            question = plan.questions[number % len(plan.questions)]
            task = loop.create_task(self._note(phase, question, due_s, start))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
            self._watch(phase, due_s, seconds, self.seen.answers)
        await self._stopped_before(start + min(seconds, due_s))
        self.seen.seconds[phase] = time.monotonic() - start
        self._calls += [(phase, *call) for call in await self._control.new_calls()]

    async def _stopped_before(self, when: float) -> bool:
        """Sleep until then, or until somebody ends it all."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(when - time.monotonic()):
                await self._stop.wait()
        return self._stop.is_set()

    def _well_again(self, due_s: float) -> bool:
        return due_s >= AFTER_S and self._in_a_row >= in_a_row(self._plan.rate)

    async def _rest(self) -> None:
        """Wait for the answers that are still to come, as long as their clients do."""
        start, patience_s = time.monotonic(), self._plan.patience_s
        while self._asking and not self._stop.is_set():  # each of them ends when its client gives up
            self._watch("last answers", time.monotonic() - start, patience_s, self.seen.answers)
            await asyncio.wait(self._asking, timeout=0.1)
        if self._asking:
            await asyncio.wait(self._asking, timeout=CLOSING_S)

    async def _note(self, phase: str, question: Question, due_s: float, start: float) -> None:
        answer = await self._ask(phase, question, due_s, start)
        self.seen.answers.append(answer)
        if phase == AFTER:
            self._in_a_row = self._in_a_row + 1 if as_before(answer) else 0

    async def _ask(self, phase: str, question: Question, due_s: float, start: float) -> Answer:
        """One request, and what came of it."""
        due = start + due_s  # by a clock that is finer than the loop's
        late_s = time.monotonic() - due
        status, failure, heard = 0, "", None
        headers = f"Content-Type: application/json\r\nx-oxyy-tag: {phase}\r\n"
        try:
            heard = await self._client.post(question.path, question.body, headers, self._plan.patience_s - late_s)
            status = heard.status
            failure = problem(status, heard.header("Content-Type"), await heard.read())
        except UpstreamTimeout:
            failure = f"no answer in {self._plan.patience_s:g} s"
        except UpstreamUnreachable:
            failure = "not connected"
        except UpstreamFailure:
            failure = f"{status}, cut off" if status else "cut off"
        except asyncio.CancelledError:  # by `play`: what came of it is noted all the same
            failure = "no answer yet"
        finally:
            if heard is not None:
                heard.close()
        took_s = time.monotonic() - due
        model, attempts, id = (
            heard.header(f"x-{n}") if heard else "" for n in ("oxyy-model", "oxyy-attempts", "request-id")
        )
        return Answer(phase, question.model, due_s, took_s, late_s, status, failure, model, int(attempts or 0), id)


class _Control:
    """The control routes of a simulator; `own` is the simulator itself where it is ours."""

    def __init__(self, origin: str, own: Simulator | None) -> None:
        self.origin = origin
        self._own = own
        self._seq = 0

    async def greet(self) -> list[Mapping[str, object]]:
        """Take away its faults, and give them. Raises StartupError for what is no simulator."""
        try:
            faults = (await self._call("GET", "/-/faults"))["faults"]
            found = [fault for fault in faults if fault.get("times") != 0]
            await self._call("DELETE", "/-/faults")
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = getattr(error, "reason", error)
            raise StartupError(f"no simulator answers at {self.origin} ({reason}); is 'simulate' running?") from None
        return found

    async def set(self, faults: Sequence[Mapping[str, object]]) -> None:
        """These faults, and no others."""
        await self._patiently("PUT", "/-/faults", faults)

    async def new_calls(self) -> list[tuple[str, str]]:
        """(request id, model) of every call since this was asked last."""
        entries = (await self._patiently("GET", f"/-/bill?since_seq={self._seq}"))["entries"]
        if entries:
            self._seq = entries[-1]["seq"]
        return [(entry["request_id"] or "", entry["model"]) for entry in entries]

    async def _patiently(self, method: str, path: str, body: object = None) -> Any:
        """Raises StartupError for a simulator that has gone."""
        loop = asyncio.get_running_loop()
        until = loop.time() + CONTROL_S
        if self._own is not None:
            await self._own.accept()  # an outage shuts these routes, too
        while True:
            try:
                return await self._call(method, path, body)
            except (OSError, ValueError) as error:
                if loop.time() > until or isinstance(error, urllib.error.HTTPError):
                    raise StartupError(f"the simulator at {self.origin} is gone: {error}") from None
            await asyncio.sleep(0.1)

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.origin + path, data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # none of the environment

        def fetch() -> Any:
            with opener.open(request, timeout=CONTROL_S) as answer:
                return json.load(answer)

        return await asyncio.to_thread(fetch)


def problem(status: int, content_type: str, body: bytes) -> str:
    """What is wrong with an answer, in a few words; nothing if it is good. A stream is good only with its `[DONE]`."""
    if not 200 <= status < 300:
        return f"{status} {_code(body)}".strip()
    if not content_type.startswith("text/event-stream"):
        return ""
    events = [line[6:] for line in body.splitlines() if line.startswith(b"data: ")]
    for event in events:
        if event.startswith(b'{"error"'):
            return f"{status}, then {_code(event) or 'an error'}"
    return "" if events and events[-1] == b"[DONE]" else f"{status}, not ended"


def _code(body: bytes) -> str:
    """The code of an error, else its type, else nothing."""
    try:
        error = json.loads(body)["error"]
        return str(error.get("code") or error.get("type") or "")
    except (ValueError, TypeError, LookupError, AttributeError):
        return ""


def as_before(answer: Answer) -> bool:
    """Whether the model that was asked answered, as it does while all is well."""
    return not answer.failure and answer.model == answer.asked


def in_a_row(rate: float) -> int:
    """How many requests must go well, one after another, for things to be called well."""
    return max(RUN_LEAST, math.ceil(rate * RUN_S))


def settled_s(answers: Sequence[Answer], good: Callable[[Answer], bool], run: int) -> float | None:
    """Seconds from a phase's beginning to the first request from which on `run` in a row were good."""
    well = 0
    for at, answer in enumerate(answers):
        well = well + 1 if not answer.failure and good(answer) else 0
        if well == run:
            return round(answers[at - run + 1].due_s, 3)
    return None
