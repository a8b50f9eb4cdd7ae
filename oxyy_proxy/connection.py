"""A client's connection: aiohttp's, which parses and frames, with other rules for who is waited for, and how long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any

import orjson

from oxyy_proxy import web
from oxyy_proxy.errors import MalformedRequest
from oxyy_proxy.rules.requestid import request_id

SERVER = "oxyy-proxy"
"""What answers call themselves; aiohttp would tell its version and Python's."""

KEEPALIVE_S = 75.0
"""How long a connection may wait for its next request."""

HEAD_S = 15.0
"""How long a head may take, from its first byte; and a new connection until its first head is there."""

STALLED_S = 60.0
"""How long a client may take nothing of an answer that waits for it: the default of a policy's `idle`."""

PART_S = 2.0
"""How long a client may take to close a connection that is over."""

LINGER_S = 5.0
"""How long the rest of a body is read that nobody wants."""

silent = logging.getLogger("oxyy_proxy.http")
"""aiohttp's own messages quote what the client sent, keys included; the server gets a logger that says nothing."""
silent.addHandler(logging.NullHandler())
silent.propagate = False


class Request(web.BaseRequest):
    """aiohttp's, with as much of it as is used here: to make all of it costs as much as to parse the request."""

    __slots__ = (
        "_headers",
        "_payload",
        "_protocol",
        "_task",
        "content",
        "headers",
        "keep_alive",
        "method",
        "path",
        "version",
    )

    def __init__(
        self,
        message: web.RawRequestMessage,
        content: web.StreamReader,
        protocol: Connection,
        task: asyncio.Task[None],
    ) -> None:
        """Two kinds of requests are the last of their connection. Behind chunks may stand trailers, and aiohttp's
        parser puts them before the next request's headers: a key among them would be the next client's, where a load
        balancer shares the connection. Behind CONNECT stands what was meant for somebody else."""
        self.method = message.method
        self.path = message.url.path
        self.version = message.version
        self.headers = self._headers = message.headers
        self.keep_alive = not (message.should_close or message.chunked or message.method == "CONNECT")
        self.content = self._payload = content
        self._protocol = protocol
        self._task = task

    @property
    def _payload_writer(self) -> web.AbstractStreamWriter:  # type: ignore[override]
        """What aiohttp's own answers are written to; ours are not."""
        return web.StreamWriter(self._protocol, self._protocol._loop)


class Answer(web.StreamResponse):
    """One that writes itself, without waiting, and past aiohttp."""

    def write_to(self, request: web.BaseRequest) -> None:
        """All of it that is not written yet. Raises ConnectionResetError where the client has left."""
        raise NotImplementedError

    async def prepare(self, request: web.BaseRequest) -> web.AbstractStreamWriter | None:
        """For aiohttp, as is `write_eof`."""
        self.write_to(request)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


class Connection(web.RequestHandler):
    """aiohttp's connection, except that an error it finds is answered in our form and quotes nothing, and that a client
    which is slow to ask or to take its answer is not waited for without end."""

    __slots__ = ("_asked", "_body", "_closing", "_finished", "_left_bytes", "_parts", "_stall")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._asked: asyncio.Future[None] | None = None
        self._body: web.StreamReader | None = None
        self._finished = False
        self._parts = False
        self._stall: asyncio.TimerHandle | None = None
        self._left_bytes = 0
        self._closing: asyncio.TimerHandle | None = None

    @property
    def _waits(self) -> bool:
        """For a request, or the rest of its head."""
        return self._waiter is not None and not self._waiter.done()

    # --- its requests, one after the other ---------------------------------------------------------------------

    async def start(self) -> None:
        """Serve the connection to its end, then close it."""
        try:
            await self._serve()
        except asyncio.CancelledError:
            self.force_close()
            raise
        except ConnectionError:
            pass  # the client has left
        except Exception as error:  # noqa: BLE001 - handlers answer for themselves: it is in what is written
            self.log_exception("an answer could not be written", exc_info=error)
            self.force_close()
        self._end()

    async def _serve(self) -> None:
        """A request is handled in the connection's task, and not as by aiohttp in one of its own: that would cost about
        as much as to parse it. Raises ConnectionError where the client has left."""
        handler, task = self._request_handler, self._task_handler
        assert handler is not None
        assert task is not None
        while not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, body = self._next_message()
            self._request_in_progress = True
            try:
                if isinstance(message, web.ErrInfo):
                    request = Request(web.ERROR, body, self, task)
                    response = self.handle_error(request)
                else:
                    self._current_request = request = Request(message, body, self, task)
                    response = await handler(request)
                whole = body.is_eof()
                if whole and isinstance(response, Answer) and not self._upgraded:
                    response.write_to(request)
                else:
                    await self._answer_as_aiohttp(request, response)
                if self._paused:
                    await self._taken()
                self._see_whether_it_stays(response, body)
            finally:
                self._request_in_progress = False
                self._current_request = None
                if self._handler_waiter is not None:
                    self._handler_waiter.set_result(None)
            if not whole:
                await self._linger(body)
            if not self._keepalive or self._close:
                return
            self._expect_request()

    def _next_message(self) -> tuple[web.RawRequestMessage | web.ErrInfo, web.StreamReader]:
        if self._parser is not None:
            self._parser.message_consumed()
        found = self._messages.popleft()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return found

    async def _answer_as_aiohttp(self, request: Request, response: web.StreamResponse) -> None:
        """For what is rare: aiohttp's own answers, a body that is still to come, and an upgrade, behind which aiohttp
        finds HTTP after all. Raises ConnectionError where the client has left."""
        if not request.content.is_eof() and "Expect" in request.headers:
            response.force_close()  # not asked for, the body may not come: the next request would be taken for it
        _, has_left = await self.finish_response(request, response, None)
        if has_left:
            raise ConnectionResetError("the client has left")

    async def _taken(self) -> None:
        """Answers are written without waiting: one who only asks and never reads must not go on."""
        with contextlib.suppress(ConnectionError):  # it has left
            await self._drain_helper()

    def _see_whether_it_stays(self, response: web.StreamResponse, body: web.StreamReader) -> None:
        """The connection, when an answer has been written."""
        self._keepalive = bool(response.keep_alive)
        if self._finished and not self._messages:
            self._keepalive = False
        elif not self._keepalive and body.is_eof():  # the rest of a body is waited for
            self._parts = self._force_close = True  # nothing more is taken, and the closing left to `_end`

    async def _linger(self, payload: web.StreamReader) -> None:
        """Read the rest of a body that nobody wanted, within reason: a connection that is closed with something unread
        is reset, and the answer may be lost with it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not payload.is_eof() and not self._force_close:
                    await payload.readany()
        if not payload.is_eof():
            self.close()

    def _expect_request(self) -> None:
        """The connection may stay idle for a while."""
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_S
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    # --- a client that is slow to ask --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """As aiohttp does it, for all but an upgraded connection; and the time for the rest of a head begins."""
        if self._upgraded:
            super().data_received(data)
            return
        parser = self._parser
        if parser is None or self._force_close or self._close:
            return
        found: Sequence[tuple[web.RawRequestMessage | web.ErrInfo, web.StreamReader]]
        try:
            found, self._upgraded, self._message_tail = parser.feed_data(data)
        except web.HttpProcessingError as error:
            found = ((web.ErrInfo(400, error, error.message), web.EMPTY_PAYLOAD),)
            self._break_off()
        waiter = self._waiter
        if not found:
            if waiter is not None and waiter is not self._asked and not waiter.done():
                self._asked = waiter  # the first bytes of a head, and not all of it
                self._expect_head()
            return
        self._messages.extend(found)
        self._body = found[-1][1]
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if len(self._messages) >= self._max_msg_queue_size and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Called after each read of a body: aiohttp would parse nothing once more each time."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _break_off(self) -> None:
        """Nothing more of the last body comes: behind what is not HTTP aiohttp would let its reader wait. Told twice,
        as one who was just woken by the end of a chunk waits again without a look at what was said meanwhile."""
        if self._body is not None and not self._body.is_eof():
            error = ConnectionResetError("broken off")
            self._body.set_exception(error)
            self._loop.call_soon(self._body.set_exception, error)

    def _expect_head(self) -> None:
        """Bring aiohttp's timer for idle connections forward; it does nothing once a request is there."""
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        late = min(self._next_keepalive_close_time, self._loop.time() + HEAD_S)
        self._next_keepalive_close_time = late
        self._keepalive_handle = self._loop.call_at(late, self._process_keepalive)

    # --- a client that has sent all it will, and waits for its answers -----------------------------------------

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Whether the connection stays: as long as a request is under way. Else it closes."""
        if self._close or self._force_close or self._waits:
            return None
        self._break_off()
        self._finished = True
        self._loop.call_soon(self._close_if_idle)  # the last answer may just have been given
        return True

    def _close_if_idle(self) -> None:
        if self._waits:
            self.force_close()

    # --- a client that is slow to take its answers -------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    def _watch(self) -> None:
        if self.transport is not None:
            self._left_bytes = self.transport.get_write_buffer_size()
            self._stall = self._loop.call_later(STALLED_S, self._still_behind, self.transport)

    def _still_behind(self, transport: asyncio.Transport) -> None:
        if transport.get_write_buffer_size() < self._left_bytes:
            self._watch()
        else:
            transport.abort()

    def _end(self) -> None:
        """Close."""
        self._task_handler = None
        if self.transport is None:
            return
        if self._parts and self.transport.can_write_eof():
            # The client closes first: a socket that is closed with something unread, such as a request behind the last
            # one, resets the connection, and the answer may be lost with it.
            self.transport.write_eof()
            self._closing = self._loop.call_later(PART_S, self._leave, self.transport)
        else:
            self._leave(self.transport)

    def _leave(self, transport: asyncio.Transport) -> None:
        """Close; asyncio waits for that without end where a client does not take the last bytes."""
        transport.close()
        self._closing = self._loop.call_later(STALLED_S, transport.abort)

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        if transport is not None and transport.get_write_buffer_size():
            self._closing = self._loop.call_later(STALLED_S, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        for timer in (self._stall, self._closing):
            if timer is not None:
                timer.cancel()

    # --- the end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no further request. One that waits for a request is closed at once: aiohttp would leave it open and
        deaf, and the client's next request would hang on it."""
        waits = self._waits
        super().close()
        if waits:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        error = MalformedRequest("The request is not valid HTTP/1.1, or a header is too long. Check the client.")
        response = web.Response(status=error.status, body=orjson.dumps(error.payload()), headers=plain_headers())
        response.force_close()
        return response


def plain_headers() -> dict[str, str]:
    """Of an answer to what never became a request."""
    return {
        "Content-Type": "application/json",
        "Server": SERVER,
        "x-request-id": request_id(time.time(), secrets.token_hex(8)),
    }
