"""The body of a request: read within bounds, parsed, and looked at where its price or its safety asks for it.

A body that came with its head is parsed where it is; any other is an `Upload`, which the exchange closes in the end.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import Callable
from time import monotonic

from oxyy_proxy import web
from oxyy_proxy.audio import duration_ms
from oxyy_proxy.endpoints.base import FORM_BYTES, Ask, Endpoint
from oxyy_proxy.errors import DeadlinePassed, MalformedRequest, RequestTooLarge, UnsupportedEncoding
from oxyy_proxy.rules.multipart import Form, FormReader, Span, is_form
from oxyy_proxy.rules.urls import require_public
from oxyy_proxy.steps.state import Exchange, Services
from oxyy_proxy.sweep import Wait
from oxyy_proxy.uploads import Upload


async def receive(services: Services, x: Exchange, request: web.BaseRequest, endpoint: Endpoint) -> Ask:
    """Read and parse. Raises RequestTooLarge (as soon as it is known), UnsupportedEncoding, MalformedRequest,
    Overloaded, and what the endpoint refuses."""
    headers = request.headers
    if "Content-Encoding" in headers and headers["Content-Encoding"].lower() != "identity":
        raise UnsupportedEncoding("Compressed request bodies are not accepted. Send the body as it is.")
    if endpoint.parse_form is not None and is_form(content_type := headers.get("Content-Type", "")):
        reader = FormReader(content_type)
        await _upload(services, x, request, endpoint.max_form_bytes, FORM_BYTES, reader.feed)
        ask = endpoint.parse_form(_within(reader.finish(), endpoint.max_form_bytes), content_type)
    else:
        announced, content = request.content_length, request.content
        if announced is not None and announced <= endpoint.max_body_bytes and content.is_eof():
            body = web.taken(content)  # it came with its head, as most do
        else:
            body = await (await _upload(services, x, request, endpoint.max_body_bytes)).whole()
        ask = endpoint.parse(body)
    if ask.recording is not None:
        ask.measured(await _measure(services, x, ask.recording))
    if ask.urls and not x.policy.allow_internal_urls:
        for url, param in ask.urls:
            require_public(url, param)
    return ask


async def _upload(
    services: Services,
    x: Exchange,
    request: web.BaseRequest,
    limit_bytes: int,
    slack_bytes: int = 0,
    look: Callable[[bytes], None] = lambda _: None,
) -> Upload:
    """The whole body; `look` sees each piece as it comes."""
    most = limit_bytes + slack_bytes
    announced, transport = request.content_length, request.transport
    if announced is not None and announced > most:
        raise _too_large(limit_bytes)
    if transport is None:
        raise _broken_off()
    if request.headers.get("Expect", "").lower() == "100-continue":
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    x.upload = upload = Upload(services.buffers.share(x.team))
    # A client that falls silent is dropped. So is one whose chunks are malformed: aiohttp tells nobody of that.
    wait = Wait(x.policy.retry.idle_s, transport.abort)
    services.sweeper.add(wait)
    try:
        wait.since = monotonic()
        while piece := await request.content.readany():
            wait.since = None  # what is waited for now is our own
            if monotonic() >= x.deadline:
                raise DeadlinePassed
            look(piece)
            if upload.size_bytes + len(piece) > most:
                raise _too_large(limit_bytes)
            await upload.write(piece)
            wait.since = monotonic()
    except (OSError, web.RequestPayloadError):
        raise _broken_off() from None
    finally:
        services.sweeper.remove(wait)
    await upload.finish()
    return upload


def _within(form: Form, limit_bytes: int) -> Form:
    """Raises RequestTooLarge where the files of a form are."""
    if sum(part.size_bytes for part in form.parts if part.filename is not None) > limit_bytes:
        raise _too_large(limit_bytes)
    return form


async def _measure(services: Services, x: Exchange, recording: Span | str) -> int | None:
    """Milliseconds of audio; None where they cannot be read."""
    if isinstance(recording, Span):
        assert x.upload is not None
        file, size = x.upload.view(recording), recording.end - recording.start
        return await asyncio.to_thread(duration_ms, file, size)
    size = len(recording) * 3 // 4
    buffers = services.buffers.share(x.team)
    buffers.take(memory=size)
    try:
        return await asyncio.to_thread(_base64_ms, recording)
    finally:
        buffers.give_back(memory=size)


def _base64_ms(text: str) -> int | None:
    """As `_measure`, of base64, also behind the head of a data URL."""
    try:
        data = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text)
    except (binascii.Error, ValueError):
        return None
    return duration_ms(io.BytesIO(data), len(data))


def _broken_off() -> MalformedRequest:
    return MalformedRequest("The body broke off. Send as much as was announced.")


def _too_large(limit_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than {limit_bytes // 2**20} MB, the limit here. Send less at once.")
