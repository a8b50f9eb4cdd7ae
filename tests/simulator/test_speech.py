import hashlib
import time

import pytest

from .conftest import dial, hear

BODY = {"model": "tts-1-hd", "voice": "alloy", "input": "Grüß dich!"}
PATH = "/audio/speech"


async def test_the_sdk_gets_an_mp3_and_characters_are_billed(client, sim):
    answer = await client.audio.speech.create(**BODY)
    assert answer.content.startswith(b"\xff\xfb")
    assert answer.response.headers["Content-Type"] == "audio/mpeg"
    assert int(answer.response.headers["Content-Length"]) == len(answer.content) == 10 * 1024
    (entry,) = sim.bill
    assert (entry.endpoint, entry.characters, entry.stream, entry.cost_nusd) == ("speech", 10, False, 300_000)


@pytest.mark.parametrize(("text", "characters"), [("a", 1), ("ü", 1), ("e\u0301", 2), ("👩\u200d👩", 3), (" \n ", 3)])
async def test_a_character_is_a_code_point(post, sim, text, characters):
    assert (await post(PATH, {**BODY, "input": text})).status == 200
    assert (sim.bill[0].characters, sim.total_nusd) == (characters, characters * 30_000)


@pytest.mark.parametrize(
    ("spelled", "content_type"),
    [("mp3", "audio/mpeg"), ("opus", "audio/ogg"), ("aac", "audio/aac"), ("flac", "audio/flac"), ("wav", "audio/wav"),
     ("pcm", "audio/pcm")],
)  # fmt: skip
async def test_every_format_has_its_content_type(post, spelled, content_type):
    assert (await post(PATH, {**BODY, "response_format": spelled})).content_type == content_type


async def test_the_same_text_is_the_same_sound_and_a_longer_one_is_longer(post):
    bodies = [(await post(PATH, {**BODY, "input": text})).body for text in ("Hello", "Hello", "Hallo", "Hello!")]
    first, again, other, longer = bodies
    assert first == again != other
    assert len(longer) > len(first)


async def test_the_size_can_be_wished_for_and_what_was_sent_is_known_by_its_hash(post, sim):
    said = await post(PATH, {**BODY, "simulate": {"bytes": 1_000_001}})
    assert len(said.body) == 1_000_001
    assert sim.sent[-1] == ("/v1/audio/speech", 200, "audio/mpeg", hashlib.sha256(said.body).hexdigest())


async def test_chunked_is_the_same_without_a_length(sim):
    plain, chunked = [
        await hear(await dial(sim, {**BODY, "simulate": wishes}, path=f"/v1{PATH}"))
        for wishes in ({}, {"chunked": True})
    ]
    assert b"Content-Length" in plain.head
    assert b"Content-Length" not in chunked.head
    assert chunked.whole
    assert chunked.body == plain.body


async def test_pieces_are_paced(post):
    began = time.monotonic()
    await post(PATH, {**BODY, "simulate": {"bytes": 5 * 4096, "pace_ms": 20}})
    assert 0.08 <= time.monotonic() - began < 1


async def test_the_text_of_a_novel_is_a_sound_of_bounded_size(post):
    assert len((await post(PATH, {**BODY, "input": "a" * 50_000})).body) == 4 * 2**20


@pytest.mark.parametrize(
    ("more", "names"),
    [({"input": ""}, "input"), ({"input": None}, "input"), ({"input": ["a"]}, "'input'"), ({"voice": None}, "voice"),
     ({"response_format": "midi"}, "mp3, opus, aac, flac, wav, pcm")],
)  # fmt: skip
async def test_what_cannot_be_said_is_a_400_and_not_billed(post, sim, more, names):
    assert names in (await post(PATH, {**BODY, **more})).error
    assert sim.bill == []
