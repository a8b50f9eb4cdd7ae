import io
import struct
import wave

import pytest

from oxyy_proxy.simulator import durations, sounds


def wav(samples, hz=16_000, channels=1):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(hz)
        file.writeframes(bytes(2 * channels * samples))
    return out.getvalue()


def frame(header, size_bytes):
    return header + bytes(size_bytes - 4)


@pytest.mark.parametrize(
    ("data", "ms"),
    [
        (wav(16_000), 1000),
        (wav(86_720), 5420),
        (wav(1), 1),
        (wav(17), 2),  # 1.0625 ms
        (wav(44_100, 44_100, channels=2), 1000),
        (wav(0), 1),
    ],
)
def test_a_wav_is_as_long_as_its_header_says_rounded_up(data, ms):
    assert durations.milliseconds(data) == ms


def test_a_wav_of_unknown_length_is_as_long_as_its_data():
    data = bytearray(wav(16_000))
    data[40:44] = b"\xff" * 4
    assert durations.milliseconds(bytes(data)) == 1000


def test_other_chunks_of_a_wav_are_passed_over():
    data = wav(8_000)
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    assert durations.milliseconds(data[:12] + extra + data[12:]) == 500


MP3 = frame(b"\xff\xfb\x90\xc4", 417)


@pytest.mark.parametrize(
    ("data", "ms"),
    [
        (MP3, 27),  # 1152 / 44100 s = 26.1 ms
        (MP3 * 100, 2613),
        (frame(b"\xff\xfb\x92\xc4", 418) * 100, 2613),  # padded by a byte
        (frame(b"\xff\xfb\x94\xc4", 384) * 10, 240),  # 48 kHz
        (frame(b"\xff\xf3\x84\xc4", 192) * 11, 264),  # MPEG 2, 64 kbit/s at 24 kHz, 576 samples
        (frame(b"\xff\xe3\x84\xc4", 384) * 11, 528),  # MPEG 2.5, 64 kbit/s at 12 kHz
        (frame(b"\xff\xfd\x84\xc4", 384) * 10, 240),  # layer II, 128 kbit/s at 48 kHz
        (frame(b"\xff\xff\x84\xc4", 256) * 10, 80),  # layer I, 256 kbit/s at 48 kHz, 384 samples
        (b"ID3\x04\0\0\0\0\x01\x02" + bytes(130) + MP3 * 100, 2613),
        (MP3 * 100 + b"TAG" + bytes(125), 2613),
        (MP3 * 99 + MP3[:40], 2613),
    ],
)
def test_an_mp3_is_as_long_as_its_frames(data, ms):
    assert durations.milliseconds(data) == ms


@pytest.mark.parametrize(
    ("data", "ms"),
    [(b"x" * 16_000, 1000), (b"x" * 16_015, 1000), (b"x", 1), (b"RIFF\0\0\0\0WAVE" + bytes(16_000), 1000),
     (b"\xff\xfb\xf0\xc4" * 4000, 1000), (b"ID3", 1)],
)  # fmt: skip
def test_anything_else_is_as_long_as_its_size(data, ms):
    assert durations.milliseconds(data) == ms


def test_the_speech_of_this_simulator_is_read_back():
    assert durations.milliseconds(sounds.mp3(b"s", 417 * 100)) == 2613
    assert durations.milliseconds(sounds.wav(b"s", 44 + 48_000)) == 1000
