"""How long a sound is, from its own bytes: a WAV header, counted MP3 frames, else its size."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction

BYTES_PER_SECOND = 16_000
"""Of a format that is not read: as if it were 128 kbit/s."""

KBPS = {  # (MPEG version is 1, layer) -> bit rates, ISO/IEC 11172-3 table B.2 and ISO/IEC 13818-3
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
HZ = (44_100, 48_000, 32_000)
HALVED = {3: 1, 2: 2, 0: 4}
"""Version bits -> by what the sample rates are divided: MPEG 1, 2 and 2.5."""


def milliseconds(data: bytes) -> int:
    """The duration in ms: rounded up, at least 1."""
    exact = _wav_s(data)
    if exact is None:
        exact = _mp3_s(data)
    if exact is None:
        return max(1, len(data) * 1000 // BYTES_PER_SECOND)
    return max(1, -(-exact.numerator * 1000 // exact.denominator))


def _wav_s(data: bytes) -> Fraction | None:
    """Seconds of a RIFF WAVE file: bytes of its data chunk over bytes per second. None if it is not one."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    bytes_per_second, start = 0, 12
    while start + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, start)
        start += 8
        if kind == b"fmt " and start + 12 <= len(data):
            (bytes_per_second,) = struct.unpack_from("<I", data, start + 8)
        if kind == b"data":
            # A recorder that streams cannot know the size and writes a larger one: the file has what it has.
            return Fraction(min(size, len(data) - start), bytes_per_second) if bytes_per_second else None
        start += size + size % 2
    return None


def _mp3_s(data: bytes) -> Fraction | None:
    """Seconds of the MPEG audio frames that follow one another from the start. None if there are none."""
    total = sum(_frames_s(data), Fraction(0))
    return total or None


def _frames_s(data: bytes) -> Iterator[Fraction]:
    start = 0
    if data[:3] == b"ID3" and len(data) >= 10:
        size = 0
        for byte in data[6:10]:  # seven bits in each, ID3v2 section 3.1
            size = size << 7 | byte & 0x7F
        start = 10 + size
    samples: dict[int, int] = {}
    while (frame := _frame(data[start : start + 4])) is not None:
        length, frame_samples, hz = frame
        samples[hz] = samples.get(hz, 0) + frame_samples
        start += length
    return (Fraction(count, hz) for hz, count in samples.items())


def _frame(header: bytes) -> tuple[int, int, int] | None:
    """(bytes, samples, samples per second) of the frame with this header; None if it is not one."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate_index, hz_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version not in HALVED or layer == 4 or rate_index in (0, 15) or hz_index == 3:
        return None
    bits_per_second = KBPS[version == 3, layer][rate_index - 1] * 1000
    hz = HZ[hz_index] // HALVED[version]
    if layer == 1:
        return (12 * bits_per_second // hz + padding) * 4, 384, hz
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * bits_per_second // hz + padding, samples, hz
