"""Small audio files with real headers, made by hand after the documents of each format; what they hold is silence."""

from __future__ import annotations

import io
import struct
import wave

MP3_RATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)


def wav(seconds: float, rate: int = 16_000, channels: int = 1) -> bytes:
    """16-bit PCM."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(round(seconds * rate) * channels * 2))
    return out.getvalue()


def mp3_frame(kbit: int = 128, body: bytes = b"") -> bytes:
    """One frame, MPEG 1 layer III, 44.1 kHz, stereo (ISO 11172-3, 2.4.1.3); `body` stands behind its header."""
    header = bytes((0xFF, 0xFB, MP3_RATES.index(kbit) << 4, 0))
    return (header + body).ljust(144 * kbit * 1000 // 44_100, b"\0")


def mp3(frames: int, kbit: int = 128) -> bytes:
    """Constant bit rate."""
    return mp3_frame(kbit) * frames


def id3(content: bytes, claimed: int | None = None) -> bytes:
    size = len(content) if claimed is None else claimed
    return b"ID3\x04\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + content


def mp3_vbr(frames: int, header: bool = True) -> bytes:
    """Frames of changing bit rate; with a Xing header, the frame before them says how many there are."""
    sound = b"".join(mp3_frame(MP3_RATES[1 + number % 9]) for number in range(frames))
    xing = mp3_frame(128, bytes(32) + b"Xing" + struct.pack(">III", 3, frames, len(sound) + 417))
    return xing * header + sound


def flac(samples: int, rate: int = 44_100, sound: bytes = b"") -> bytes:
    """RFC 9639, 8.1 and 8.2; stereo, 16 bits. `samples` 0 means unknown."""
    info = struct.pack(">HH6s", 4096, 4096, b"") + (rate << 44 | 1 << 41 | 15 << 36 | samples).to_bytes(8, "big")
    return b"fLaC" + b"\x80\0\0\x22" + info + bytes(16) + sound


def ogg_page(packet: bytes, position: int, serial: int = 7, sequence: int = 0, kind: int = 0) -> bytes:
    """RFC 3533, 6, one packet, with its checksum. `kind`: 2 opens a stream, 4 ends it."""
    lacing = b"\xff" * (len(packet) // 255) + bytes((len(packet) % 255,))
    head = struct.pack("<4sBBqII", b"OggS", 0, kind, position, serial, sequence)
    rest = bytes((len(lacing),)) + lacing + packet
    return head + struct.pack("<I", _ogg_crc(head + bytes(4) + rest)) + rest


def _ogg_crc(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


def vorbis(samples: int, rate: int = 44_100, serial: int = 7) -> bytes:
    opening = b"\x01vorbis" + struct.pack("<IBIiiiBB", 0, 2, rate, 0, 64_000, 0, 0xB8, 1)
    return ogg(opening, b"\x03vorbis" + bytes(20), samples, serial)


def opus(samples: int, skipped: int = 312, serial: int = 7) -> bytes:
    """RFC 7845, 5.1. `samples` are at 48 kHz and do not count the skipped ones."""
    opening = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, skipped, 16_000, 0, 0)
    return ogg(opening, b"OpusTags" + bytes(20), samples + skipped, serial)


def ogg_flac(samples: int, rate: int = 44_100) -> bytes:
    """RFC 9639, 10.1."""
    return ogg(b"\x7fFLAC\x01\0\0\x01" + flac(0, rate), b"\x04\0\0\x04" + bytes(8), samples, 7)


def ogg(opening: bytes, comment: bytes, last_position: int, serial: int) -> bytes:
    """A stream of three pages, the last one of 2,000 bytes of sound."""
    return (
        ogg_page(opening, 0, serial, 0, 2)
        + ogg_page(comment, 0, serial, 1)
        + ogg_page(b"\x55" * 2000, last_position, serial, 2, 4)
    )


def atom(name: bytes, content: bytes = b"", long: bool = False) -> bytes:
    """ISO 14496-12, 4.2; `long` writes the size in 64 bits."""
    if long:
        return struct.pack(">I4sQ", 1, name, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), name) + content


def mp4(ticks: int, per_s: int = 1000, sound: bytes = bytes(8000), moov_last: bool = False, version: int = 0) -> bytes:
    """`moov` stands before the sound, as for streaming, or behind it, as recorders leave it."""
    times = struct.pack(">IIII" if version == 0 else ">QQIQ", 0, 0, per_s, ticks)
    moov = atom(b"moov", atom(b"mvhd", bytes((version, 0, 0, 0)) + times + bytes(80)) + atom(b"trak", atom(b"tkhd")))
    mdat = atom(b"mdat", sound, long=moov_last)
    return atom(b"ftyp", b"M4A \0\0\0\0") + (mdat + moov if moov_last else moov + mdat)


def ebml(element: str, content: bytes = b"", size: str | None = None) -> bytes:
    """RFC 8794, 5 and 6. `element` is its id in hex, and so may be `size`; it takes 8 bytes else."""
    return (
        bytes.fromhex(element)
        + (bytes.fromhex(size) if size else (1 << 56 | len(content)).to_bytes(8, "big"))
        + content
    )


UNKNOWN = "01ffffffffffffff"


def webm(ticks: float | None, scale_ns: int | None = 1_000_000, wide: bool = True, size: str | None = None) -> bytes:
    """RFC 9559, 5.1: as ffmpeg writes it, or as a browser records it, `size` for its Segment and Cluster UNKNOWN."""
    info = ebml("4d80", b"made by hand")
    if scale_ns is not None:
        info = ebml("2ad7b1", scale_ns.to_bytes(3, "big")) + info
    if ticks is not None:
        info += ebml("4489", struct.pack(">d" if wide else ">f", ticks))
    cluster = ebml("1f43b675", ebml("e7", b"\0") + ebml("a3", bytes(800)) * 10, size)
    segment = ebml("114d9b74", bytes(30)) + ebml("ec", bytes(50)) + ebml("1549a966", info) + ebml("1654ae6b") + cluster
    return ebml("1a45dfa3", ebml("4282", b"webm")) + ebml("18538067", segment, size)
