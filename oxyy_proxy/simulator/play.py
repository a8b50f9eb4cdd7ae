"""Carries out a script on a connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

from aiohttp import HttpVersion11, web

from .script import Act, Refuse, Script, Send, Wait

LINGER_ZERO = struct.pack("ii", 1, 0)
"""SO_LINGER that makes closing a socket send RST instead of FIN."""

FLUSH_S = 0.005
"""A reset discards what the kernel has not sent yet; beyond loopback that takes a moment."""


def reset(transport: asyncio.Transport | None) -> None:
    """Drops a connection so that its client sees it reset."""
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    transport.abort()


async def play(
    script: Script, request: web.BaseRequest, headers: dict[str, str], refuse: Callable[[float], None]
) -> web.StreamResponse:
    """Sends the answer as the script says, and returns it. A client that leaves ends the script quietly."""
    response = web.StreamResponse(status=script.status or 500, headers={**headers, **script.headers})
    response.headers.setdefault("Content-Type", script.content_type)
    if script.length is not None:
        response.content_length = script.length
    elif request.version >= HttpVersion11:  # before that, the end of the connection ends the body
        response.enable_chunked_encoding()
    transport = request.transport
    try:
        if await _steps(script, request, response, refuse):
            await response.write_eof()
        elif transport is not None:
            transport.close()
    except ConnectionError:
        reset(transport)
    return response


async def _steps(
    script: Script, request: web.BaseRequest, response: web.StreamResponse, refuse: Callable[[float], None]
) -> bool:
    """Whether the answer came to an orderly end."""
    loop = asyncio.get_running_loop()
    transport = request.transport
    due = loop.time()
    for step in script.steps:
        match step:
            case Send(data):
                await response.write(data)
            case Wait(None):
                await loop.create_future()
            case Wait(seconds):
                # Times count from the start, so that a busy machine does not slow the pace down.
                due += seconds or 0
                if (delay := due - loop.time()) > 0:
                    await asyncio.sleep(delay)
            case Act.HEAD:
                await response.prepare(request)
            case Act.RESET:
                await asyncio.sleep(FLUSH_S)
                reset(transport)
                return False
            case Act.CLOSE:
                response.force_close()
                return False
            case Refuse(for_s):
                refuse(for_s)
                return False
    return True
