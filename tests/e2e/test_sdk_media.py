"""The official SDKs for Python and Node.js with what the documentation describes and gives no example for: pictures as
base64, several of them to be edited, every format of transcripts and of speech."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy.cli import demo
from oxyy_proxy.simulator import DEFAULT_PRICES, Simulator
from tests.audio_files import mp3
from tests.e2e.programs import NODE_FOLDER, require_node, run
from tests.e2e.sdk import KEY, Sync, assert_billed
from tests.rig import ORG_KEY, Rig

PICTURES = {"one.png": b"the first picture", "two.png": b"the second one", "mask.png": b"a mask"}
"""Nobody looks at what they show."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

TALK = mp3(150)

TRANSCRIPTS = {
    "json": lambda answer: answer.text,
    "text": lambda answer: answer,
    "verbose_json": lambda answer: " ".join(part.text for part in answer.segments),
    "srt": lambda answer: " ".join(answer.split("\n")[2::4]),
    "vtt": lambda answer: " ".join(answer.split("\n")[3::3]),
}
"""Format -> the words of an answer in it."""

SOUNDS = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


@pytest.fixture
async def media(make_rig: Callable[..., Any], tmp_path: Path) -> Rig:
    """A proxy with every model that the simulator has."""
    demo.write_policies(tmp_path / "demo", "for its prices alone")
    models = (tmp_path / "demo" / "models.yaml").read_text()
    return await make_rig(models=models, simulator=Simulator(org_key=ORG_KEY))  # type: ignore[no-any-return]


@pytest.fixture
async def sdk(media: Rig) -> AsyncIterator[Sync]:
    made = Sync(media.url, KEY)
    yield made
    await made.close()


async def test_images_as_base64_are_those_that_were_made(sdk: Sync, media: Rig) -> None:
    asked = {"model": "flux.1-pro", "prompt": "A cat", "n": 2, "response_format": "b64_json"}
    raw = await sdk.call(lambda c: c.images.with_raw_response.generate(**asked))
    assert sha256(raw.content) == last_sent(media)
    first, second = (base64.b64decode(image.b64_json) for image in raw.parse().data)
    assert first.startswith(PNG_SIGNATURE)
    assert second.startswith(PNG_SIGNATURE)
    assert first != second
    assert_charged(media)


async def test_an_image_costs_what_its_quality_and_size_cost(sdk: Sync, media: Rig) -> None:
    asked = {"model": "dall-e-3", "prompt": "A cat", "quality": "hd", "size": "1792x1024"}
    await sdk.call(lambda c: c.images.generate(**asked))
    assert [row["cost_nusd"] for row in media.rows()] == [120_000_000]
    assert_charged(media)


async def test_images_that_are_priced_by_tokens_tell_their_usage(sdk: Sync, media: Rig) -> None:
    answer = await sdk.call(lambda c: c.images.generate(model="gpt-image-1", prompt="A cat", n=3))
    (entry,) = media.simulator.bill
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (entry.input_tokens, entry.output_tokens)
    assert_charged(media)


@pytest.mark.parametrize("model", ["gpt-image-1", "flux.1-kontext-max"], ids=["by tokens", "by images"])
async def test_several_images_and_a_mask_are_edited(sdk: Sync, media: Rig, model: str) -> None:
    one, two, mask = ((name, content, "image/png") for name, content in PICTURES.items())
    answer = await sdk.call(lambda c: c.images.edit(model=model, image=[one, two], mask=mask, prompt="Join them", n=2))
    assert all(image.url.startswith("https://") for image in answer.data)
    assert len(answer.data) == media.simulator.bill[0].images == 2
    assert_pictures_arrived(media)
    assert_charged(media)


@pytest.mark.parametrize("spelled", TRANSCRIPTS)
async def test_a_transcript_in_every_format(sdk: Sync, media: Rig, spelled: str) -> None:
    """By the minute: text and subtitles do not tell of tokens, which are estimated then, but the file has a length."""
    asked = {"model": "whisper-1", "file": ("talk.mp3", TALK), "response_format": spelled}
    raw = await sdk.call(lambda c: c.audio.transcriptions.with_raw_response.create(**asked))
    assert sha256(raw.content) == last_sent(media)
    assert len(TRANSCRIPTS[spelled](raw.parse()).split()) > 1
    assert [upload.sha256 for upload in media.simulator.uploads] == [sha256(TALK)]
    assert media.rows()[0]["audio_seconds"] == pytest.approx(150 * 1152 / 44_100, abs=0.001)
    assert_charged(media)


@pytest.mark.parametrize("model", ["gpt-4o-mini-transcribe", "whisper-1"], ids=["by tokens", "by minutes"])
async def test_a_transcript_is_streamed(sdk: Sync, media: Rig, model: str) -> None:
    asked = {"model": model, "file": ("talk.mp3", TALK)}
    *deltas, done = await sdk.events(lambda c: c.audio.transcriptions.create(**asked, stream=True))
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text != ""
    assert media.rows()[0]["stream"] == 1
    assert_charged(media)


@pytest.mark.parametrize("wishes", [{}, {"chunked": True, "bytes": 1_000_003}], ids=["whole", "chunked"])
@pytest.mark.parametrize("spelled", SOUNDS)
async def test_speech_in_every_format_is_the_sound_that_was_sent(
    sdk: Sync, media: Rig, spelled: str, wishes: dict[str, Any]
) -> None:
    def listen(client: Any) -> tuple[str, bytes]:
        with client.audio.speech.with_streaming_response.create(
            model="tts-1-hd", voice="alloy", input="Grüße!", response_format=spelled, extra_body={"simulate": wishes}
        ) as answer:
            return answer.headers["content-type"], b"".join(answer.iter_bytes())

    content_type, sound = await sdk.call(listen)
    assert (content_type, len(sound)) == (SOUNDS[spelled], wishes.get("bytes", 1024 * len("Grüße!")))
    assert sha256(sound) == last_sent(media)
    assert media.rows()[0]["characters"] == len("Grüße!")
    assert_charged(media)


async def test_a_vector_is_the_same_as_base64_and_as_numbers(sdk: Sync, media: Rig) -> None:
    asked = {"model": "gemini-embedding-001", "input": "a text"}
    packed = await sdk.call(lambda c: c.embeddings.create(**asked))
    plain = await sdk.call(lambda c: c.embeddings.create(**asked, encoding_format="float"))
    assert_close(packed.data[0].embedding, plain.data[0].embedding)
    assert_charged(media, 2)


async def test_models_of_every_modality_are_listed(sdk: Sync) -> None:
    listed = await sdk.call(lambda c: c.models.list())
    assert {model.id for model in listed.data} == DEFAULT_PRICES.keys()
    for name in DEFAULT_PRICES:
        model = await sdk.call(lambda c, name=name: c.models.retrieve(name))
        assert (model.id, model.object) == (name, "model")


async def test_the_sdk_for_node_does_all_that(media: Rig, tmp_path: Path) -> None:
    node = require_node()
    for name, content in {**PICTURES, "talk.mp3": TALK}.items():
        (tmp_path / name).write_bytes(content)
    ended = await run(tmp_path, node, str(NODE_FOLDER / "media.mjs"), OPENAI_BASE_URL=media.url, OPENAI_API_KEY=KEY)
    assert ended.code == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert [base64.b64decode(image)[: len(PNG_SIGNATURE)] for image in told["images"]] == [PNG_SIGNATURE] * 2
    assert told["edited"].startswith("https://")
    assert told["usage"]["total_tokens"] > 0
    assert_pictures_arrived(media)
    assert told["transcripts"]["json"]["text"]
    assert told["transcripts"]["text"].strip()
    assert told["transcripts"]["verbose_json"]["segments"]
    assert all(" --> " in told["transcripts"][subtitles] for subtitles in ("srt", "vtt"))
    assert told["deltas"] == told["done"] != ""
    sounds = [digest for path, *_, digest in media.simulator.sent if path == "/v1/audio/speech"]
    assert told["speech"] == dict(zip(SOUNDS, sounds, strict=True))
    assert_close(*told["vectors"])
    assert set(told["models"]) == DEFAULT_PRICES.keys()
    assert told["model"]["id"] == "veo-3"
    assert_charged(media, 16)


def assert_charged(rig: Rig, requests: int = 1) -> None:
    """So many requests were settled at what the simulator charged, and none by an estimate."""
    assert_billed(rig, requests)
    assert {row["usage_source"] for row in rig.rows()} <= {"upstream", "computed"}


def assert_pictures_arrived(rig: Rig) -> None:
    """As files of a form: what is to be edited, in order, and the mask."""
    arrived = [upload for upload in rig.simulator.uploads if upload.endpoint == "image_edits"]
    assert {upload.filename: upload.sha256 for upload in arrived} == {
        name: sha256(content) for name, content in PICTURES.items()
    }
    assert [upload.filename for upload in arrived if upload.part == "image[]"] == ["one.png", "two.png"]
    assert [upload.filename for upload in arrived if upload.part == "mask"] == ["mask.png"]


def assert_close(one: list[float], other: list[float]) -> None:
    assert len(one) == len(other) > 1
    assert all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(one, other, strict=True))


def last_sent(rig: Rig) -> str:
    """sha256 of the upstream's last answer."""
    return rig.simulator.sent[-1][3]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
