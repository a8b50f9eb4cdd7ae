import io
import wave

import pytest

from oxyy_proxy.simulator.sounds import AAC_FRAME_BYTES, MP3_FRAME_BYTES, SOUNDS, aac, mp3, wav

MAGIC = {"mp3": b"\xff\xfb", "opus": b"OggS", "aac": b"\xff\xf1", "flac": b"fLaC", "wav": b"RIFF", "pcm": b""}


@pytest.mark.parametrize("name", MAGIC)
@pytest.mark.parametrize("size_bytes", [0, 1, 10, 5000, 5001])
def test_a_sound_has_its_size_its_magic_and_its_seed(name, size_bytes):
    make = SOUNDS[name].make
    data = make(b"seed", size_bytes)
    assert len(data) == size_bytes
    assert data.startswith(MAGIC[name][:size_bytes])
    assert data == make(b"seed", size_bytes)
    assert size_bytes < 5000 or data != make(b"other", size_bytes)


def test_these_are_the_documented_formats():
    assert set(SOUNDS) == set(MAGIC)


def test_a_wav_is_read_by_the_standard_library():
    data = wav(b"seed", 44 + 24_000)
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        assert file.getnframes() == 12_000
        assert len(set(file.readframes(12_000))) > 100


def test_every_frame_of_an_mp3_begins_where_the_one_before_ends_and_is_silent():
    data = mp3(b"seed", 10 * MP3_FRAME_BYTES)
    frames = [data[start : start + MP3_FRAME_BYTES] for start in range(0, len(data), MP3_FRAME_BYTES)]
    assert {frame[:21] for frame in frames} == {b"\xff\xfb\x90\xc4" + bytes(17)}
    assert len(set(frames)) == len(frames) == 10
    assert b"\xff" not in b"".join(frame[1:] for frame in frames)


def test_an_aac_frame_says_its_own_length():
    head = aac(b"seed", AAC_FRAME_BYTES)[:7]
    assert (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5 == AAC_FRAME_BYTES
