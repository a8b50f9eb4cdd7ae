"""A tiny picture out of a seed: 8 × 8 coloured squares, a valid PNG."""

from __future__ import annotations

import hashlib
import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIDE, RGB, BIT_DEPTH = 8, 2, 8


def picture(seed: bytes) -> bytes:
    """The PNG of this seed."""
    noise = hashlib.shake_256(seed).digest(SIDE * SIDE * 3)
    row_bytes = SIDE * 3
    rows = (noise[start : start + row_bytes] for start in range(0, len(noise), row_bytes))
    unfiltered = b"".join(b"\0" + row for row in rows)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, BIT_DEPTH, RGB, 0, 0, 0)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(unfiltered)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
