"""The simulator: an HTTP server that answers as the API would, and writes down what it charged."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

import orjson
from aiohttp import web

from . import asked, chat, embeddings, forms, images, models, speech, transcriptions, uploads, videos
from .answers import JSON, Answer, Usage, json_answer
from .bill import Bill, BillEntry
from .control import control
from .effects import refusal
from .errors import ApiError, of_status
from .faults import Fault, FaultBoard
from .jobs import Job, JobBoard
from .listener import Listener
from .play import play
from .pricelist import DEFAULT_PRICES, PriceList
from .prices import ModelPrice, read_prices
from .script import Script, Wait, plain

RECEIVED_KEPT = 10_000
RECORDS_KEPT = 1000

Endpoint = Callable[[asked.Asked], Answer]
Sent = tuple[str, int, str, str]

VIDEOS = "/v1/videos/generations"
ENDPOINTS: Mapping[str, tuple[str, Endpoint]] = {
    "/v1/chat/completions": ("chat", chat.answer),
    "/v1/embeddings": ("embeddings", embeddings.answer),
    "/v1/images/generations": ("images", images.generations),
    "/v1/images/edits": ("image_edits", images.edits),
    VIDEOS: ("videos", videos.answer),
    "/v1/audio/transcriptions": ("transcriptions", transcriptions.answer),
    "/v1/audio/speech": ("speech", speech.answer),
}


class Simulator:
    """A fake of the oxyy API on a local port.

    `prices`: model -> unit -> USD (see `PriceList`), None for DEFAULT_PRICES. `org_key`: the only key that is
    accepted, None for any. `pace_ms`: time between the events of a stream, or the pieces of a sound. `job_s`: how
    long a video job takes, None for ever. Raises ValueError for a bad price.

    `received` holds the last `received_kept` API requests as (headers with lower-case names, body), and
    `received_paths` their paths. `sent` holds the last answers as (path, status, content type, sha256 hex of the whole
    body), all four as they would be without a fault; `uploads` what is known of the last files that came.
    `models_status`: the status that GET /v1/models is refused with, None for none.
    """

    def __init__(
        self,
        prices: PriceList | None = None,
        org_key: str | None = None,
        pace_ms: float = 0,
        received_kept: int = RECEIVED_KEPT,
        job_s: float | None = 2.0,
    ) -> None:
        self.models = read_prices(DEFAULT_PRICES if prices is None else prices)
        self.pace_ms = pace_ms
        self.models_status: int | None = None
        self.ledger = Bill(self._changed)
        self.faults = FaultBoard(self._outage)
        self.received: deque[tuple[dict[str, str], bytes]] = deque(maxlen=received_kept)
        self.received_paths: deque[str] = deque(maxlen=received_kept)
        self.sent: deque[Sent] = deque(maxlen=RECORDS_KEPT)
        self.uploads: deque[uploads.Upload] = deque(maxlen=RECORDS_KEPT)
        self.in_flight = 0
        self._board = JobBoard(job_s, self._changed)
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

    @property
    def jobs(self) -> dict[str, Job]:
        """Every video job by its id, the oldest first."""
        return self._board.jobs

    def complete(self, job_id: str, duration: float | None = None, resolution: str | None = None) -> None:
        """Ends a video job well, and bills it: what is not given is as it was asked for. Raises JobError."""
        self._board.complete(job_id, duration, resolution)

    def fail(self, job_id: str) -> None:
        """Ends a video job without a video or a charge. Raises JobError."""
        self._board.fail(job_id)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens; port 0 picks a free one. Raises OSError if the port is taken."""
        listener = Listener(self._handle, host, port)
        await listener.open()
        self._listener = listener

    async def stop(self) -> None:
        """Stops at once; requests that are being answered are cut off, and jobs that run never end by themselves."""
        self._board.stop()
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
        """Returns once `true()` is true: asked whenever a request comes, is billed or ends, or a job does.

        Raises TimeoutError.
        """
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
        self.received_paths.append(request.path)
        self._changed()
        try:
            self._check_key(request)
            script = self._get(request) if request.method == "GET" else await self._post(request, raw)
        except ApiError as error:
            body = orjson.dumps(error.payload())
            script = refusal(error.status, body)
            self.sent.append((request.path, error.status, JSON, hashlib.sha256(body).hexdigest()))
        own_id = {"x-request-id": f"req_{hashlib.blake2b(raw, digest_size=12).hexdigest()}"}
        return await play(script, request, own_id, self._outage)

    def _get(self, request: web.BaseRequest) -> Script:
        """Answers what is only looked at and never charged. Raises ApiError."""
        path = request.path
        if path == "/v1/models" or path.startswith("/v1/models/"):
            return self._script(path, json_answer(self._models(path), Usage(), None), None, 0)
        if not path.startswith(f"{VIDEOS}/"):
            raise _no_such_route(request)
        job = self.jobs.get(path.removeprefix(f"{VIDEOS}/"))
        if job is None:
            raise ApiError(404, "There is no such video job", "job_not_found")
        answer = json_answer(self._board.poll(job), Usage(), None)
        return self._script(path, answer, self.faults.match(job.model, stream=False, poll=True), 0)

    async def _post(self, request: web.BaseRequest, raw: bytes) -> Script:
        """Answers and charges: from here on the upstream has done the work. Raises ApiError for what it refuses."""
        if request.method != "POST" or request.path not in ENDPOINTS:
            raise _no_such_route(request)
        endpoint, answer_to = ENDPOINTS[request.path]
        question = await _read(raw, request.headers.get("Content-Type", ""))
        self.uploads.extend(uploads.upload(endpoint, file) for file in question.files)
        price = self.models.get(question.model)
        if price is None or endpoint not in price.endpoints:
            raise models.unknown(question.model)
        answer = answer_to(replace(question, by_tokens=price.by_tokens))
        fault = self._fault(question, answer)
        pace_ms = self.pace_ms if question.wishes.pace_ms is None else question.wishes.pace_ms
        script = self._script(request.path, answer, fault, pace_ms / 1000)
        self._charge(request.headers.get("x-request-id"), endpoint, question.model, price, answer, script.status, fault)
        if not question.wishes.delay_ms:
            return script
        return replace(script, steps=(Wait(question.wishes.delay_ms / 1000), *script.steps))

    def _charge(
        self,
        request_id: str | None,
        endpoint: str,
        model: str,
        price: ModelPrice,
        answer: Answer,
        status: int,
        fault: Fault | None,
    ) -> None:
        """Bills the answer now, or the video that it promises once there is one."""
        billed = fault is None or fault.kind.billed

        def add(usage: Usage) -> None:
            self.ledger.add(
                request_id=request_id,
                endpoint=endpoint,
                model=model,
                stream=answer.stream,
                status=status,
                usage=usage,
                cost_nusd=price.cost_nusd(usage),
                fault=fault.name if fault else None,
                billed=billed,
            )

        if answer.job is None or not billed:
            add(answer.usage)
            return
        answer.job.request_id = request_id
        self._board.start(answer.job, lambda job: add(videos.used(job)))

    def _script(self, path: str, answer: Answer, fault: Fault | None, pace_s: float) -> Script:
        """How the answer goes out; what it would be without the fault is noted."""
        digest = hashlib.sha256()
        for piece in answer.pieces:
            digest.update(piece)
        self.sent.append((path, 200, answer.content_type, digest.hexdigest()))
        return plain(answer, pace_s) if fault is None else fault.kind.effect(answer, fault.parameters, pace_s)

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
        if self.models_status is not None:
            raise of_status(self.models_status)
        if path == "/v1/models":
            return models.listed(self.models)
        return models.one(path.removeprefix("/v1/models/"), self.models)


async def _read(raw: bytes, content_type: str) -> asked.Asked:
    if forms.is_form(content_type):
        return asked.of_form(await forms.read(raw, content_type))
    return asked.read(raw)


def _no_such_route(request: web.BaseRequest) -> ApiError:
    if request.path in ENDPOINTS:
        return ApiError(405, f"{request.path} takes POST, not {request.method}", "method_not_allowed")
    return ApiError(404, f"Unknown request URL: {request.method} {request.path}", "unknown_url")
