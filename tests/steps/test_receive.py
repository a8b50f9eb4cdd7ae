"""Bodies on their way in: forms, files, what is too much, and what is refused before it is sent."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from oxyy_proxy.endpoints import ENDPOINTS
from oxyy_proxy.endpoints.base import FORM_BYTES, Endpoint
from oxyy_proxy.uploads import SPOOL_AT_BYTES, Buffers
from tests.rig import GATEWAY, KEY, MODELS, Rig
from tests.steps.wires import Heard, ask, assert_books_are_right, dial, ended_rows, limits, request, until

BOUNDARY = "boundary-7MA4YWxkTrZu0gW"
FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"

FILES = {"image_edits": "image", "videos": "image", "transcriptions": "file"}
FIELDS = {
    "image_edits": {"model": "dall-e-3", "prompt": "A lake", "n": "1"},
    "videos": {"model": "veo-3", "prompt": "A lake", "duration": "4"},
    "transcriptions": {"model": "whisper-1"},
}
"""A good form for every endpoint that takes one; a new one needs its own here."""

FORMS = [endpoint for endpoint in ENDPOINTS if endpoint.parse_form is not None]
by_name = pytest.mark.parametrize("endpoint", FORMS, ids=lambda endpoint: endpoint.name)


def text_part(name: str, value: str) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def file_part(name: str, data: bytes, content_type: str = "application/octet-stream") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a.bin"\r\n'
    return f"{head}Content-Type: {content_type}\r\n\r\n".encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def good(endpoint: Endpoint, data: bytes = b"\x00\xffdata", **fields: str) -> bytes:
    texts = {**FIELDS[endpoint.name], **fields}
    return form(*[text_part(*pair) for pair in texts.items()], file_part(FILES[endpoint.name], data))


async def send(rig: Rig, endpoint: Endpoint, body: bytes, content_type: str = FORM_TYPE, **how: Any) -> Heard:
    return await ask(rig, body, path=f"/v1{endpoint.path}", headers={"Content-Type": content_type}, **how)


@dataclass(frozen=True)
class Bad:
    """One way for a form to be wrong."""

    body: Callable[[Endpoint], bytes]
    code: str = "invalid_request"
    status: int = 400
    param: str | None = None
    content_type: str = FORM_TYPE


def _with(*parts: bytes) -> Callable[[Endpoint], bytes]:
    """A good form with these parts in front."""
    return lambda endpoint: b"".join(parts) + good(endpoint)


def _without(name: str) -> Callable[[Endpoint], bytes]:
    def body(endpoint: Endpoint) -> bytes:
        texts = {key: value for key, value in FIELDS[endpoint.name].items() if key != name}
        return form(*[text_part(*pair) for pair in texts.items()], file_part(FILES[endpoint.name], b"data"))

    return body


def _large(endpoint: Endpoint) -> bytes:
    return good(endpoint, bytes(endpoint.max_form_bytes + 1))


NESTED = "multipart/mixed; boundary=inner"

BAD = {
    "no model": Bad(_without("model"), "invalid_value", param="model"),
    "two models": Bad(_with(text_part("model", "forbidden")), "invalid_value", param="model"),
    "a model that is a file": Bad(_with(file_part("model", b"forbidden")), "invalid_value", param="model"),
    "a model in another spelling": Bad(_with(text_part("Model", "forbidden")), "invalid_value", param="model"),
    "an empty model": Bad(lambda e: good(e, model=""), "invalid_value", param="model"),
    "an unknown model": Bad(lambda e: good(e, model="gpt-6"), "model_not_found", 404, "model"),
    "a model of another endpoint": Bad(lambda e: good(e, model="gpt-5"), "model_not_priced", 403, "model"),
    "a name with a line break": Bad(_with(text_part("mo\ndel", "a"))),
    "a name with an encoded line break": Bad(_with(text_part("mo%0D%0Adel", "a"))),
    "a form within": Bad(_with(file_part("extra", b"--inner--\r\n", NESTED))),
    "no boundary": Bad(good, content_type="multipart/form-data"),
    "two boundaries": Bad(good, content_type=f"{FORM_TYPE}; boundary=other"),
    "another boundary": Bad(good, content_type="multipart/form-data; boundary=other"),
    "no end": Bad(lambda e: good(e)[:-4]),
    "something behind its end": Bad(lambda e: good(e) + b"--more"),
    "no parts": Bad(lambda e: form()),
    "nothing": Bad(lambda e: b""),
    "an encoded part": Bad(
        _with(text_part("a", "b").replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"))
    ),
    "a file that is too large": Bad(_large, "request_too_large", 413),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@by_name
async def test_a_bad_form_is_refused_as_documented_and_leaves_no_trace(rig: Rig, endpoint: Endpoint, bad: Bad) -> None:
    answer = await send(rig, endpoint, bad.body(endpoint), bad.content_type)
    error = answer.error
    assert (answer.status, error["code"], error["param"]) == (bad.status, bad.code, bad.param)
    assert len(error["message"]) > 20
    await _no_trace(rig)


async def _no_trace(rig: Rig) -> None:
    assert not rig.simulator.received
    assert rig.rows() == []
    for limit in await limits(rig):
        assert float(limit["held"]) == float(limit["spent"]) == 0, limit
    buffers = rig.proxy.services.buffers
    await until(lambda: (buffers.memory_bytes, buffers.disk_bytes) == (0, 0))


@by_name
@pytest.mark.parametrize("size", [10, SPOOL_AT_BYTES - 400, SPOOL_AT_BYTES + 1, 3 * SPOOL_AT_BYTES + 7])
@pytest.mark.parametrize("model_last", [False, True])
async def test_a_form_goes_upstream_byte_for_byte(rig: Rig, endpoint: Endpoint, size: int, model_last: bool) -> None:
    data = os.urandom(size)
    texts = [text_part(*pair) for pair in FIELDS[endpoint.name].items()]
    file = file_part(FILES[endpoint.name], data)
    body = form(*([file, *texts] if model_last else [*texts, file]))
    answer = await send(rig, endpoint, body)
    assert answer.status == 200
    headers, received = rig.simulator.received[-1]
    assert received == body
    assert headers["content-type"] == FORM_TYPE
    assert rig.simulator.uploads[-1].sha256 == hashlib.sha256(data).hexdigest()


@by_name
async def test_an_alias_is_spliced_in_and_nothing_else_is_touched(
    make_rig: Callable[..., Any], endpoint: Endpoint
) -> None:
    model = FIELDS[endpoint.name]["model"]
    rig = await make_rig(models=MODELS.replace("aliases: {", f"aliases: {{mine: {model}, "))
    data = os.urandom(2 * SPOOL_AT_BYTES)
    answer = await send(rig, endpoint, good(endpoint, data, model="mine", unknown="öäü", empty=""))
    assert answer.status == 200
    assert rig.simulator.received[-1][1] == good(endpoint, data, model=model, unknown="öäü", empty="")
    assert answer.headers["x-oxyy-model"] == model


@by_name
async def test_a_default_model_is_put_into_a_form_that_names_none(
    make_rig: Callable[..., Any], endpoint: Endpoint
) -> None:
    model = FIELDS[endpoint.name]["model"]
    rig = await make_rig(models=f"{MODELS}default_models: {{{endpoint.name}: {model}}}\n")
    data = os.urandom(100)
    body = _without("model")(endpoint)
    assert (await send(rig, endpoint, body)).status == 200
    assert rig.simulator.received[-1][1] == text_part("model", model) + body
    assert (await send(rig, endpoint, good(endpoint, data))).status == 200


@by_name
async def test_a_retry_replays_the_upload_for_the_next_model(make_rig: Callable[..., Any], endpoint: Endpoint) -> None:
    model = FIELDS[endpoint.name]["model"]
    other = f"  other: {{endpoints: [{endpoint.name}], price: {{image: 1, video_second: 1, audio_minute: 1}}}}\n"
    models = MODELS.replace("  unpriced:", f"{other}  unpriced:").replace(
        f"  {model}: {{", f"  {model}: {{fallbacks: [other], "
    )
    models = models.replace("  dall-e-3:\n", "  dall-e-3:\n    fallbacks: [other]\n")
    rig = await make_rig(models=models)
    rig.simulator.faults.add({"fault": "status", "status": 503, "model": model})
    data = os.urandom(2 * SPOOL_AT_BYTES)
    answer = await send(rig, endpoint, good(endpoint, data))
    assert answer.status == 404  # the simulator does not know the other model
    sent = [body for _, body in rig.simulator.received]
    assert sent == [good(endpoint, data), good(endpoint, data, model="other")]
    assert [row["state"] for row in await ended_rows(rig)] == ["voided"]


@by_name
async def test_a_form_that_is_too_large_is_refused_as_soon_as_it_is_known(rig: Rig, endpoint: Endpoint) -> None:
    most = endpoint.max_form_bytes + FORM_BYTES
    head = {"Content-Type": FORM_TYPE, "Content-Length": str(most + 1)}
    answer = await ask(rig, path=f"/v1{endpoint.path}", headers=head)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert f"{endpoint.max_form_bytes // 2**20} MB" in answer.error["message"]
    head = {"Content-Type": FORM_TYPE, "Transfer-Encoding": "chunked"}
    async with dial(rig) as wire:
        await wire.send(request(None, path=f"/v1{endpoint.path}", headers=head))
        start = file_part(FILES[endpoint.name], b"")[:-2]
        await wire.send(b"%x\r\n%b\r\n" % (len(start), start))
        for _ in range(most // 2**20 + 1):
            await wire.send(b"100000\r\n" + bytes(2**20) + b"\r\n")
        chunked = await wire.answer()
    assert (chunked.status, chunked.error["code"]) == (413, "request_too_large")
    await _no_trace(rig)


@by_name
async def test_the_largest_file_is_taken(rig: Rig, endpoint: Endpoint) -> None:
    data = os.urandom(endpoint.max_form_bytes)
    answer = await send(rig, endpoint, good(endpoint, data))
    assert answer.status == 200
    assert rig.simulator.uploads[-1].sha256 == hashlib.sha256(data).hexdigest()


@by_name
async def test_a_compressed_form_is_refused(rig: Rig, endpoint: Endpoint) -> None:
    headers = {"Content-Type": FORM_TYPE, "Content-Encoding": "gzip"}
    answer = await ask(rig, gzip.compress(good(endpoint)), path=f"/v1{endpoint.path}", headers=headers)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")
    await _no_trace(rig)


async def test_what_takes_no_form_says_so(rig: Rig) -> None:
    answer = await ask(rig, good(FORMS[0]), path="/v1/images/generations", headers={"Content-Type": FORM_TYPE})
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("room", [{"memory_bytes": 2**20}, {"disk_bytes": 2**20}])
async def test_beyond_what_can_be_kept_an_upload_is_told_to_come_back(rig: Rig, room: dict[str, int]) -> None:
    rig.proxy.services.buffers = Buffers(**room)
    edits = FORMS[0]
    answer = await send(rig, edits, good(edits, bytes(3 * 2**20)))
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")
    await _no_trace(rig)
    assert (await send(rig, edits, good(edits, bytes(2**19)))).status == 200


async def test_json_beyond_a_megabyte_counts_as_long_as_it_is_needed(rig: Rig) -> None:
    rig.proxy.services.buffers = Buffers(memory_bytes=4 * 2**20)
    text = base64.b64encode(bytes(2**21)).decode()
    body = {**FIELDS["image_edits"], "n": 1, "image_base64": text}
    assert (await ask(rig, body, path="/v1/images/edits")).status == 200
    assert (await ask(rig, {**body, "image_base64": text * 2}, path="/v1/images/edits")).status == 503
    await assert_books_are_right(rig)


async def test_a_client_that_leaves_in_the_middle_of_an_upload_leaves_nothing_behind(rig: Rig) -> None:
    edits = FORMS[0]
    body = good(edits, bytes(3 * 2**20))
    head = {"Content-Type": FORM_TYPE, "Content-Length": str(len(body))}
    buffers = rig.proxy.services.buffers
    async with dial(rig) as wire:
        await wire.send(request(None, path="/v1/images/edits", headers=head) + body[: 2 * 2**20])
        await until(lambda: buffers.disk_bytes > 0)
        wire.reset()
    await until(lambda: not rig.proxy.services.running)
    await _no_trace(rig)


async def test_a_client_that_falls_silent_is_dropped(make_rig: Callable[..., Any]) -> None:
    rig = await make_rig(gateway=f"{GATEWAY}retry: {{idle: 300ms}}\n")
    edits = FORMS[0]
    body = good(edits, bytes(3 * 2**20))
    head = {"Content-Type": FORM_TYPE, "Content-Length": str(len(body))}
    async with dial(rig) as wire:
        await wire.send(request(None, path="/v1/images/edits", headers=head) + body[: 2 * 2**20])
        assert await wire.closed()
    await _no_trace(rig)


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.png", "http://internal/a.png"])
async def test_an_operator_may_allow_internal_urls(make_rig: Callable[..., Any], url: str) -> None:
    body = {**FIELDS["image_edits"], "n": 1, "image": url}
    for allowed, status in (("false", 400), ("true", 200)):
        rig = await make_rig(gateway=f"{GATEWAY}allow_internal_urls: {allowed}\n")
        answer = await ask(rig, body, path="/v1/images/edits")
        assert answer.status == status


async def test_a_url_in_a_form_is_looked_at_too(rig: Rig) -> None:
    fields = {**FIELDS["image_edits"], "image": "http://169.254.169.254/latest"}
    answer = await send(rig, FORMS[0], form(*[text_part(*pair) for pair in fields.items()]))
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_value", "image")
    await _no_trace(rig)


async def test_many_uploads_at_once_keep_their_files_apart(rig: Rig) -> None:
    files = [os.urandom(SPOOL_AT_BYTES + 1000 * n) for n in range(12)]
    edits = FORMS[0]
    answers = await asyncio.gather(*[send(rig, edits, good(edits, data)) for data in files])
    assert {answer.status for answer in answers} == {200}
    seen = sorted(upload.sha256 for upload in rig.simulator.uploads)
    assert seen == sorted(hashlib.sha256(data).hexdigest() for data in files)
    await assert_books_are_right(rig)


async def test_a_key_is_checked_before_an_upload_is_taken(rig: Rig) -> None:
    head = {"Content-Type": FORM_TYPE, "Expect": "100-continue", "Content-Length": str(20 * 2**20)}
    answer = await ask(rig, path="/v1/images/edits", headers=head, key=KEY + "x")
    assert answer.status == 401
