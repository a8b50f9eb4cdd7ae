"""Sounds out of a seed, of an exact size: the same seed gives the same bytes, and no two pieces are alike."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MP3_HEADER = b"\xff\xfb\x90\xc4"
"""MPEG 1 layer III, no CRC, 128 kbit/s, 44.1 kHz, one channel, no padding."""
MP3_FRAME_BYTES = 144 * 128_000 // 44_100
MP3_SILENCE = bytes(17)
"""Side information of one channel that says: no main data. A decoder skips what follows, so it may be noise."""

AAC_FRAME_BYTES = 371

WAV_HZ, WAV_SAMPLE_BYTES = 24_000, 2
WAV_HEADER_BYTES = 44


@dataclass(frozen=True, slots=True)
class Sound:
    """One format: its content type, and what makes so many bytes of it."""

    content_type: str
    make: Callable[[bytes, int], bytes]


def mp3(seed: bytes, size_bytes: int) -> bytes:
    """Silent frames; the last one is cut off unless the size is a multiple of MP3_FRAME_BYTES."""
    return _framed(seed, size_bytes, MP3_HEADER + MP3_SILENCE, MP3_FRAME_BYTES)


def wav(seed: bytes, size_bytes: int) -> bytes:
    """Faint noise, 16 bit, 24 kHz, one channel; a size below WAV_HEADER_BYTES cuts the header off."""
    samples_bytes = max(0, size_bytes - WAV_HEADER_BYTES)
    rate = WAV_HZ * WAV_SAMPLE_BYTES
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, WAV_HZ, rate, WAV_SAMPLE_BYTES, 8 * WAV_SAMPLE_BYTES)
    riff = struct.pack("<4sI4s", b"RIFF", 36 + samples_bytes, b"WAVE")
    return (riff + form + struct.pack("<4sI", b"data", samples_bytes) + pcm(seed, samples_bytes))[:size_bytes]


def pcm(seed: bytes, size_bytes: int) -> bytes:
    """The same noise without a header: signed samples of which the high byte is always 0."""
    low = _noise(seed, -(-size_bytes // 2))
    samples = bytearray(2 * len(low))
    samples[::2] = low
    return bytes(samples[:size_bytes])


def aac(seed: bytes, size_bytes: int) -> bytes:
    """ADTS frames (ISO/IEC 13818-7 section 6.2), AAC LC, 44.1 kHz, one channel, around noise."""
    length = AAC_FRAME_BYTES
    lengths = bytes((0x40 | length >> 11 & 3, length >> 3 & 0xFF, (length & 7) << 5 | 0x1F))
    return _framed(seed, size_bytes, b"\xff\xf1\x50" + lengths + b"\xfc", AAC_FRAME_BYTES)


def opus(seed: bytes, size_bytes: int) -> bytes:
    """Begins as an Ogg page with an Opus header does; noise after that."""
    head = b"OggS\0\x02" + bytes(20) + b"\x01\x13OpusHead\x01\x01\0\0\x80\xbb\0\0\0\0\0"
    return _begun(seed, size_bytes, head)


def flac(seed: bytes, size_bytes: int) -> bytes:
    """Begins as FLAC does, with the mark and a STREAMINFO block; noise after that."""
    return _begun(seed, size_bytes, b"fLaC\x80\0\0\x22" + bytes(34))


SOUNDS: Mapping[str, Sound] = {
    "mp3": Sound("audio/mpeg", mp3),
    "opus": Sound("audio/ogg", opus),
    "aac": Sound("audio/aac", aac),
    "flac": Sound("audio/flac", flac),
    "wav": Sound("audio/wav", wav),
    "pcm": Sound("audio/pcm", pcm),
}


def _framed(seed: bytes, size_bytes: int, header: bytes, frame_bytes: int) -> bytes:
    """Frames of this length, each with this header, full of noise."""
    noise_bytes = frame_bytes - len(header)
    count = -(-size_bytes // frame_bytes)
    noise = _noise(seed, count * noise_bytes)
    frames = (header + noise[start : start + noise_bytes] for start in range(0, len(noise), noise_bytes))
    return b"".join(frames)[:size_bytes]


def _begun(seed: bytes, size_bytes: int, head: bytes) -> bytes:
    return (head + _noise(seed, max(0, size_bytes - len(head))))[:size_bytes]


def _noise(seed: bytes, size_bytes: int) -> bytes:
    """Bytes below 0x80, so that none looks like the start of a frame."""
    return hashlib.shake_256(seed).digest(size_bytes).translate(_SEVEN_BITS)


_SEVEN_BITS = bytes(byte & 0x7F for byte in range(256))
