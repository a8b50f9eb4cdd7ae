"""What tests of uploads share: a body as it is received and read, and what is held meanwhile."""

from __future__ import annotations

import gc
import os

from oxyy_proxy.rules.multipart import Span
from oxyy_proxy.uploads import Buffers, Upload


async def uploaded(buffers: Buffers, *pieces: bytes) -> Upload:
    upload = Upload(buffers)
    for piece in pieces:
        await upload.write(piece)
    await upload.finish()
    return upload


async def read(upload: Upload, *wanted: bytes | Span) -> bytes:
    return b"".join([piece async for piece in upload.pieces(wanted)])


def held(buffers: Buffers) -> tuple[int, int]:
    return buffers.memory_bytes, buffers.disk_bytes


def descriptors() -> int:
    """How many this process has open. What is only garbage has been collected."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
