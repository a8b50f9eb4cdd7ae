"""The simulator: an HTTP server that answers as the API would, and writes down what it charged."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

import orjson
from aiohttp import web

from . import asked, chat, embeddings, models
from .answers import Answer
from .bill import Bill, BillEntry
from .control import control
from .effects import refusal
from .errors import ApiError
from .faults import Fault, FaultBoard
from .listener import Listener
from .play import play
from .prices import DEFAULT_PRICES, PriceList, read_prices
from .script import Script, Wait, plain

RECEIVED_KEPT = 10_000

Endpoint = Callable[[asked.Asked], Answer]

ENDPOINTS: Mapping[str, tuple[str, Endpoint]] = {
    "/v1/chat/completions": ("chat", chat.answer),
    "/v1/embeddings": ("embeddings", embeddings.answer),
}


class Simulator:
    """A fake of the oxyy API on a local port.

    `prices`: model -> unit -> USD (see `prices.PriceList`), None for DEFAULT_PRICES. `org_key`: the only key that is
    accepted, None for any. `pace_ms`: time between the events of a stream. `received` holds the last `received_kept`
    API requests as (headers with lower-case names, body). Raises ValueError for a bad price.
    """

    def __init__(
        self,
        prices: PriceList | None = None,
        org_key: str | None = None,
        pace_ms: float = 0,
        received_kept: int = RECEIVED_KEPT,
    ) -> None:
        self.models = read_prices(DEFAULT_PRICES if prices is None else prices)
        self.pace_ms = pace_ms
        self.ledger = Bill(self._changed)
        self.faults = FaultBoard(self._outage)
        self.received: deque[tuple[dict[str, str], bytes]] = deque(maxlen=received_kept)
        self.in_flight = 0
        self._org_key = org_key
        self._listener: Listener | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def url(self) -> str:
        """The base URL for clients, with `/v1`. Only after start()."""
        return f"{self.origin}/v1"

    @property
    def origin(self) -> str:
        """Scheme, host and port, below which the control routes `/-/...` stand."""
        if self._listener is None:
            raise RuntimeError("the simulator has not been started")
        host = self._listener.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._listener.port}"

    @property
    def bill(self) -> list[BillEntry]:
        """One entry per accepted request, in order."""
        return self.ledger.entries

    @property
    def total_nusd(self) -> int:
        """The sum of the bill in nano-USD."""
        return self.ledger.total_nusd

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens; port 0 picks a free one. Raises OSError if the port is taken."""
        listener = Listener(self._handle, host, port)
        await listener.open()
        self._listener = listener

    async def stop(self) -> None:
        """Stops at once; requests that are being answered are cut off."""
        if self._listener is not None:
            await self._listener.close()

    async def refuse(self, for_s: float | None = None) -> None:
        """Resets all connections and refuses new ones, until accept() or for so many seconds."""
        if self._listener is not None:
            self._listener.shut(for_s)

    async def accept(self) -> None:
        """Listens again on the same port."""
        if self._listener is not None:
            await self._listener.open()

    async def wait_for(self, true: Callable[[], bool], timeout_s: float = 10) -> None:
        """Returns once `true()` is true: asked whenever a request comes, is billed or ends. Raises TimeoutError."""
        try:
            async with asyncio.timeout(timeout_s):
                while not true():
                    change = asyncio.get_running_loop().create_future()
                    self._waiting.add(change)
                    await change
        except TimeoutError:
            state = f"{self.in_flight} in flight, {len(self.bill)} billed, {len(self.received)} received"
            raise TimeoutError(f"still not true after {timeout_s} s: {state}") from None

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for change in waiting:
            if not change.done():
                change.set_result(None)

    def _outage(self, for_s: float) -> None:
        if self._listener is not None:
            self._listener.shut(for_s)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.path.startswith("/-/"):
            return await control(self, request)
        self.in_flight += 1
        self._changed()
        try:
            return await self._api(request)
        finally:
            self.in_flight -= 1
            self._changed()

    async def _api(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await request.content.read()
        self.received.append(({name.lower(): value for name, value in request.headers.items()}, raw))
        self._changed()
        try:
            self._check_key(request)
            if request.method == "GET" and request.path.startswith("/v1/models"):
                return _json(self._models(request.path))
            if request.method != "POST" or request.path not in ENDPOINTS:
                raise _no_such_route(request)
            script = self._accept(request, asked.read(raw))
        except ApiError as error:
            script = refusal(error.status, orjson.dumps(error.payload()))
        own_id = {"x-request-id": f"req_{hashlib.blake2b(raw, digest_size=12).hexdigest()}"}
        return await play(script, request, own_id, self._outage)

    def _accept(self, request: web.BaseRequest, question: asked.Asked) -> Script:
        """Answers and charges: from here on the upstream has done the work. Raises ApiError for what it refuses."""
        endpoint, answer_to = ENDPOINTS[request.path]
        price = self.models.get(question.model)
        if price is None or endpoint not in price.endpoints:
            raise models.unknown(question.model)
        answer = answer_to(question)
        fault = self._fault(question, answer)
        pace_ms = self.pace_ms if question.wishes.pace_ms is None else question.wishes.pace_ms
        script = _script(answer, fault, pace_ms / 1000)
        self.ledger.add(
            request_id=request.headers.get("x-request-id"),
            endpoint=endpoint,
            model=question.model,
            stream=answer.stream,
            status=script.status,
            usage=answer.usage,
            cost_nusd=price.cost_nusd(answer.usage),
            fault=fault.name if fault else None,
            billed=fault.kind.billed if fault else True,
        )
        if not question.wishes.delay_ms:
            return script
        return replace(script, steps=(Wait(question.wishes.delay_ms / 1000), *script.steps))

    def _fault(self, question: asked.Asked, answer: Answer) -> Fault | None:
        """The fault the request asks for itself, else the first on the board that fits."""
        own = question.wishes.fault
        if own is not None and own.kind.only == "stream" and not answer.stream:
            raise ApiError(400, f"'simulate.fault' {own.name} needs an answer that is streamed")
        if own is not None and own.fits(question.model, answer.stream):
            return own
        return self.faults.match(question.model, answer.stream)

    def _check_key(self, request: web.BaseRequest) -> None:
        if self._org_key is not None and request.headers.get("Authorization") != f"Bearer {self._org_key}":
            raise ApiError(401, "Invalid API key provided")

    def _models(self, path: str) -> dict[str, object]:
        if path == "/v1/models":
            return models.listed(self.models)
        return models.one(path.removeprefix("/v1/models/"), self.models)


def _script(answer: Answer, fault: Fault | None, pace_s: float) -> Script:
    return plain(answer, pace_s) if fault is None else fault.kind.effect(answer, fault.parameters, pace_s)


def _no_such_route(request: web.BaseRequest) -> ApiError:
    if request.path in ENDPOINTS:
        return ApiError(405, f"{request.path} takes POST, not {request.method}", "method_not_allowed")
    return ApiError(404, f"Unknown request URL: {request.method} {request.path}", "unknown_url")


def _json(payload: object) -> web.Response:
    return web.Response(body=orjson.dumps(payload), content_type="application/json")
