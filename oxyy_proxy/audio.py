"""How long an audio file is, from its headers alone: what a hold for a transcription is made from.

mp3, mp4, m4a, wav and flac are read by tinytag: pure Python (a parser in C would take the whole proxy down with it),
MIT (mutagen is GPL). Two containers are read here. Of WebM two numbers are wanted, for which ebmlite, the one library
that is kept up, would load a schema of all Matroska. Of Ogg tinytag reads every packet (290 ms for 25 MB
of speech), though the length stands in the last page.

The file is a stranger's. Whoever reads it does so through `_Metered`, so that the work is bounded whatever the bytes
say, and its length is a claim: one that its size makes impossible is not believed.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, cast

MAX_DURATION_S = 24 * 3600
MIN_BITS_PER_S = 500
"""25 MB, the upstream's limit, are 9 hours of Opus at its lowest rate (6 kbit/s, RFC 6716 2.1.1) or 111 hours of this,
which leaves room for silence that is not coded. Less than this is no audio."""

MAX_BITS_PER_S = 20_000_000
"""Stereo at 192 kHz and 32 bits takes 12.3 Mbit/s, full-HD film of a telephone 17. More means that the claim is far too
short for the bytes: 20 MB cannot be less than 8 s."""

_MAX_READS = 20_000
_MAX_READ_BYTES = 128 * 1024
"""A real file takes under 3,000 reads: an MP3 of changing bit rate that does not say its length is sampled over 30 s,
which are 1,150 frames; fragmented MP4 takes two reads per fragment."""


class _ReadTooMuch(Exception):
    """The file asks for more work than any real one does."""


class _Metered:
    """A file that stops its reader after a fixed amount of work. One per file and parser."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads = 0
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes. Raises _ReadTooMuch; a read without a size is one of the whole file."""
        self._reads += 1
        if self._reads > _MAX_READS or not 0 <= size <= _MAX_READ_BYTES:
            raise _ReadTooMuch
        return self._file.read(size)


def duration_ms(file: BinaryIO, size_bytes: int) -> int | None:
    """Milliseconds, rounded up, at least 1; None where the file does not say, or not plausibly for its size.

    Never raises for any bytes. `file` is seekable, positioned anywhere, `size_bytes` long; where it ends up is open.
    Blocks: up to 30 ms for hostile bytes, 1 ms for others.
    """
    try:
        seconds = _seconds(file, size_bytes)
    except Exception:  # noqa: BLE001 - parsers meet bytes that nobody foresaw; whatever they raise, there is no length
        return None
    if seconds is None or not 0 < seconds <= MAX_DURATION_S:
        return None
    if not seconds * MIN_BITS_PER_S <= size_bytes * 8 <= seconds * MAX_BITS_PER_S:
        return None
    # by way of microseconds: 4.35 * 1000 is a hair above 4350
    return max(1, -(-round(seconds * 1_000_000) // 1000))


def _seconds(file: BinaryIO, size_bytes: int) -> float | None:
    """What the file claims, by its first bytes; may be anything, NaN included. Raises whatever the parsers raise."""
    metered = _Metered(file)
    metered.seek(0)
    head = metered.read(12)
    if head.startswith(b"\x1aE\xdf\xa3"):
        return _webm_seconds(metered, size_bytes)
    if head.startswith(b"OggS"):
        return _ogg_seconds(metered, size_bytes)
    mpeg = head[:1] == b"\xff" and head[1] & 0xE0 == 0xE0 and head[1] & 0x06  # without layer bits it is ADTS AAC
    if mpeg or head.startswith((b"ID3", b"fLaC")) or head[4:8] == b"ftyp" or (head[:4], head[8:]) == (b"RIFF", b"WAVE"):
        return _tinytag_seconds(metered, size_bytes)
    return None


def _tinytag_seconds(metered: _Metered, size_bytes: int) -> float | None:
    from tinytag import TinyTag  # here, since few proxies serve transcriptions

    metered.seek(0)
    tag = TinyTag.get(file_obj=cast(BinaryIO, metered), tags=False)
    if tag.duration and tag.bitrate and (tag.mime_type or "").startswith(("audio/wav", "audio/mpeg")):
        room_s = size_bytes * 8 / (tag.bitrate * 1000)
        # A recorder that writes WAV to a pipe cannot go back to fill in the size, and claims 4 GB; an MP3 cut short
        # claims the whole. 1 %, since the rate of MP3 is a round number.
        return room_s if tag.duration > room_s * 1.01 else tag.duration
    return tag.duration


# --- Ogg: RFC 3533, section 6

_OGG_PAGE = struct.Struct("<4sBBqIIIB")
_OGG_PAGE_MAX_BYTES = _OGG_PAGE.size + 255 + 255 * 255
_OGG_FIRST_PAGES = 8
"""Every stream of the file opens with a page of its own, before all else: sound, film, skeleton."""


def _ogg_seconds(metered: _Metered, size_bytes: int) -> float | None:
    """The position of the last page of the first audio stream. Chained streams (radio) end in another: None."""
    metered.seek(0)
    for _ in range(_OGG_FIRST_PAGES):
        magic, _, _, _, serial, _, _, segments = _OGG_PAGE.unpack(metered.read(_OGG_PAGE.size))
        packet = metered.read(sum(metered.read(segments)))
        if magic != b"OggS":
            return None
        if clock := _ogg_clock(packet):
            samples_per_s, skipped = clock
            position = _last_ogg_position(metered, size_bytes, serial)
            return None if position is None else (position - skipped) / samples_per_s
    return None


def _ogg_clock(packet: bytes) -> tuple[int, int] | None:
    """Samples per second, and samples to skip, of a stream that opens with this packet; None for no known audio."""
    if packet.startswith(b"\x01vorbis"):  # Vorbis I, 4.2.2
        return int.from_bytes(packet[12:16], "little"), 0
    if packet.startswith(b"OpusHead"):  # RFC 7845, 4 and 5.1: always counted at 48 kHz
        return 48_000, int.from_bytes(packet[10:12], "little")
    if packet.startswith(b"\x7fFLAC"):  # RFC 9639, 10.1 and 8.2: 20 bits of STREAMINFO
        return int.from_bytes(packet[27:30], "big") >> 4, 0
    return None


def _last_ogg_position(metered: _Metered, size_bytes: int, serial: int) -> int | None:
    """The last granule position of this stream within two pages' room of the end."""
    metered.seek(max(0, size_bytes - 2 * _OGG_PAGE_MAX_BYTES))
    tail = metered.read(2 * _OGG_PAGE_MAX_BYTES)
    at = len(tail)
    while (at := tail.rfind(b"OggS", 0, at)) >= 0:
        if len(tail) - at < _OGG_PAGE.size:
            continue
        _, version, _, position, of_stream, _, _, _ = _OGG_PAGE.unpack_from(tail, at)
        if version == 0 and of_stream == serial and position >= 0:  # -1: no packet ends on this page
            return cast(int, position)
    return None


# --- WebM: EBML (RFC 8794, 4 to 7), Matroska (RFC 9559, 5.1)

_SEGMENT, _INFO, _TIMESTAMP_SCALE, _DURATION = 0x18538067, 0x1549A966, 0x2AD7B1, 0x4489
_INFO_MAX_BYTES = 16 * 1024
"""Real ones have under 500: the names of two programs, a title."""


def _webm_seconds(metered: _Metered, size_bytes: int) -> float | None:
    """Segment > Info > Duration. A browser's recording has none: its header is sent before its end is known."""
    position = 0
    while position < size_bytes:
        metered.seek(position)
        element, content_bytes, used = _ebml_element(metered.read(12))
        position += used
        if element == _INFO:
            metered.seek(position)
            return _info_seconds(metered.read(content_bytes)) if content_bytes <= _INFO_MAX_BYTES else None
        if element != _SEGMENT:
            position += content_bytes
    return None


def _info_seconds(info: bytes) -> float | None:
    """`info` is the content of the Info element: durations are in ticks of TimestampScale nanoseconds."""
    scale_ns, ticks, at = 1_000_000, None, 0
    while at < len(info):
        element, content_bytes, used = _ebml_element(info[at : at + 12])
        content = info[at + used : at + used + content_bytes]
        if element == _TIMESTAMP_SCALE:
            scale_ns = int.from_bytes(content, "big")
        elif element == _DURATION:
            (ticks,) = struct.unpack(">f" if len(content) == 4 else ">d", content)
        at += used + content_bytes
    return None if ticks is None else ticks * scale_ns / 1e9


def _ebml_element(data: bytes) -> tuple[int, int, int]:
    """Id, bytes of its content, and bytes of these two themselves. Raises ValueError or IndexError if they are no such.

    An unknown size is all ones, 2^56-1 as browsers write it: a Segment's is not needed, after a Cluster comes nothing.
    """
    id_bytes = 9 - data[0].bit_length()
    used = id_bytes + 9 - data[id_bytes].bit_length()
    if used > len(data):
        raise ValueError("not EBML")
    content_bytes = int.from_bytes(data[id_bytes:used], "big") & ((1 << 7 * (used - id_bytes)) - 1)
    return int.from_bytes(data[:id_bytes], "big"), content_bytes, used
