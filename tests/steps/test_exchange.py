"""Bad input: for every endpoint the documented refusal, and no trace upstream, in the ledger or on a limit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from oxyy_proxy.endpoints import ENDPOINTS
from oxyy_proxy.endpoints.base import Endpoint
from tests.rig import KEY, ORG_KEY, Rig, team_file
from tests.steps.wires import Heard, Wire, ask, dial, limits, request

EXPIRED_KEY = "team-key-expired"
ORG = {"Authorization": f"Bearer {ORG_KEY}"}

TYPES = {
    "invalid_api_key": (401, "authentication_error"),
    "model_not_allowed": (403, "permission_error"),
    "model_not_priced": (403, "permission_error"),
    "model_not_found": (404, "invalid_request_error"),
    "unknown_url": (404, "invalid_request_error"),
    "method_not_allowed": (405, "invalid_request_error"),
    "invalid_json": (400, "invalid_request_error"),
    "invalid_value": (400, "invalid_request_error"),
    "request_too_large": (413, "invalid_request_error"),
    "unsupported_encoding": (415, "invalid_request_error"),
}
"""The README's table of errors: code -> status and type."""

VALID: dict[str, dict[str, Any]] = {
    "chat": {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello!"}]},
    "embeddings": {"model": "text-embedding-3-small", "input": "Hello!"},
    "images": {"model": "dall-e-3", "prompt": "A lake"},
    "image_edits": {"model": "dall-e-3", "prompt": "A lake", "image": "https://images.example/lake.png"},
    "videos": {"model": "veo-3", "prompt": "A lake"},
    "transcriptions": {"model": "whisper-1", "file_url": "https://sounds.example/lake.mp3"},
    "speech": {"model": "tts-1-hd", "input": "Hello!", "voice": "alloy"},
}
"""A good body for every endpoint; a new one needs its own here."""

INTERNAL_URLS = [
    "lake.png",
    "file:///etc/passwd",
    "http://localhost/a",
    "http://127.0.0.1:9090/metrics",
    "http://0x7f.1/a",
    "http://[::ffff:169.254.169.254]/latest/meta-data",
    "http://metadata.google.internal/",
]
IMAGE_PARAM = "messages[0].content[0].image_url"
"""What nobody may have the upstream fetch; `tests/rules/test_urls.py` has them all."""

WRONG_FIELDS: dict[str, list[tuple[str, Any, str]]] = {
    "chat": [
        ("messages", None, "messages"),
        ("messages", [], "messages"),
        ("messages", "Hello!", "messages"),
        ("messages", [1], "messages[0]"),
        ("messages", [{"role": "user", "content": "a"}, {"content": "b"}], "messages[1]"),
        ("messages", [{"role": "user", "content": 7}], "messages[0].content"),
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", "12", "max_tokens"),
        ("max_completion_tokens", 1.5, "max_completion_tokens"),
        ("n", 0, "n"),
        ("n", True, "n"),
        ("stream", "yes", "stream"),
        ("stream_options", [], "stream_options"),
        ("stream_options", {"include_usage": 1}, "include_usage"),
        ("temperature", "hot", "temperature"),
        *[
            ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}], IMAGE_PARAM)
            for url in INTERNAL_URLS
        ],
    ],
    "embeddings": [
        ("input", None, "input"),
        ("input", [], "input"),
        ("input", 7, "input"),
        ("input", ["a", 1], "input"),
        ("input", [[]], "input"),
        ("encoding_format", 1, "encoding_format"),
        ("dimensions", 0, "dimensions"),
    ],
    "images": [
        ("prompt", None, "prompt"),
        ("prompt", "", "prompt"),
        ("prompt", ["a"], "prompt"),
        ("n", 0, "n"),
        ("n", "2", "n"),
        ("n", 10**9, "n"),
        ("size", 1024, "size"),
        ("quality", {}, "quality"),
    ],
    "image_edits": [
        ("prompt", None, "prompt"),
        ("image", None, "image"),
        ("image", 5, "image"),
        ("image", ["https://images.example/a.png", 5], "image"),
        ("image_base64", 5, "image_base64"),
        ("n", 1.5, "n"),
        *[("image", url, "image") for url in INTERNAL_URLS],
        ("mask", "http://10.0.0.1/mask.png", "mask"),
    ],
    "videos": [
        ("prompt", None, "prompt"),
        ("duration", 0, "duration"),
        ("duration", "4", "duration"),
        ("duration", 4.5, "duration"),
        ("duration", 61, "duration"),
        ("resolution", 1080, "resolution"),
        *[("image", url, "image") for url in INTERNAL_URLS],
    ],
    "transcriptions": [
        ("file_url", None, "file"),
        ("file_url", 5, "file_url"),
        ("file_base64", "UklGRg==", "file"),
        ("stream", "yes", "stream"),
        ("response_format", 5, "response_format"),
        *[("file_url", url, "file_url") for url in INTERNAL_URLS],
    ],
    "speech": [
        ("input", None, "input"),
        ("input", "", "input"),
        ("input", ["a"], "input"),
        ("voice", None, "voice"),
        ("voice", "", "voice"),
        ("voice", 5, "voice"),
    ],
}
"""Per endpoint: a member, its wrong value, and the `param` that is named."""

MODELS = """
version: 1
models:
  gpt-5: {endpoints: [chat], price: {input: 1.25, output: 10.00}}
  text-embedding-3-small: {endpoints: [embeddings], price: {input: 0.02}}
  dall-e-3: {endpoints: [images, image_edits], price: {image: 0.04}}
  veo-3: {endpoints: [videos], price: {video_second: 0.40}, max_seconds: 60}
  whisper-1: {endpoints: [transcriptions], price: {audio_minute: 0.006}}
  tts-1-hd: {endpoints: [speech], price: {character: 30}}
  unpriced: {endpoints: [ALL]}
  forbidden:
    endpoints: [ALL]
    price: {input: 1, output: 1, image: 1, video_second: 1, audio_minute: 1, character: 1}
""".replace("ALL", ", ".join(endpoint.name for endpoint in ENDPOINTS))

Send = Callable[[Wire, Endpoint], Any]


@dataclass(frozen=True)
class Bad:
    """One way to be wrong. `body`: what is sent instead of a good body."""

    code: str
    body: Callable[[dict[str, Any]], object] = lambda good: good
    param: str | None = None
    key: str | None = KEY
    method: str = "POST"
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    send: Send | None = None


def _but(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda good: {**good, **members}


def _raw(prefix: bytes, suffix: bytes = b"") -> Callable[[dict[str, Any]], object]:
    """A good body in which `prefix` comes first and `suffix` last among the members."""
    return lambda good: b"{" + prefix + json.dumps(good).encode()[1:-1] + suffix + b"}"


def _deep(levels: int) -> bytes:
    return b', "metadata": ' + b"[" * levels + b"]" * levels


async def _announced(wire: Wire, endpoint: Endpoint) -> None:
    head = {"Content-Length": str(endpoint.max_body_bytes + 1)}
    await wire.send(request(None, path=f"/v1{endpoint.path}", headers=head))


async def _chunked(wire: Wire, endpoint: Endpoint) -> None:
    await wire.send(request(None, path=f"/v1{endpoint.path}", headers={"Transfer-Encoding": "chunked"}))
    size = 2**20
    chunk = b"%x\r\n" % size + bytes(size) + b"\r\n"
    for _ in range(endpoint.max_body_bytes // size + 1):
        await wire.send(chunk)
    await wire.send(b"0\r\n\r\n")


BAD = {
    "no key": Bad("invalid_api_key", key=None),
    "an unknown key": Bad("invalid_api_key", key="wrong"),
    "an expired key": Bad("invalid_api_key", key=EXPIRED_KEY),
    "an empty key": Bad("invalid_api_key", key=""),
    "another scheme": Bad("invalid_api_key", key=None, headers={"Authorization": f"Basic {KEY}"}),
    "no key on an unknown path": Bad("invalid_api_key", key=None, path="/v1/nothing"),
    "no key and an unreadable body": Bad("invalid_api_key", key=None, body=lambda good: b"{"),
    "an unknown path": Bad("unknown_url", path="/v1/nothing"),
    "a path without the prefix": Bad("unknown_url", path="/chat/completions"),
    "a path with a slash behind it": Bad("unknown_url", path="/v1/chat/completions/"),
    "another method": Bad("method_not_allowed", method="GET", body=lambda good: None),
    "another method with a body": Bad("method_not_allowed", method="PUT"),
    "an unknown model": Bad("model_not_found", _but(model="gpt-6"), "model"),
    "a model that is no text": Bad("model_not_found", _but(model="\ud800"), "model"),
    "a model that is not allowed": Bad("model_not_allowed", _but(model="forbidden"), "model"),
    "a model without a price": Bad("model_not_priced", _but(model="unpriced"), "model"),
    "no model": Bad("invalid_value", lambda good: {k: v for k, v in good.items() if k != "model"}, "model"),
    "an empty model": Bad("invalid_value", _but(model=""), "model"),
    "a model that is a number": Bad("invalid_value", _but(model=5), "model"),
    "no body": Bad("invalid_json", lambda good: b""),
    "half a body": Bad("invalid_json", lambda good: json.dumps(good).encode()[:-1]),
    "something behind the body": Bad("invalid_json", lambda good: json.dumps(good).encode() + b"{}"),
    "an array": Bad("invalid_json", lambda good: [good]),
    "latin-1": Bad("invalid_json", _raw(b'"user": "caf\xe9", ')),
    "UTF-16": Bad("invalid_json", lambda good: json.dumps(good).encode("utf-16")),
    "NaN": Bad("invalid_json", _raw(b"", b', "temperature": NaN')),
    "infinity far down": Bad("invalid_json", _raw(b"", b', "metadata": {"a": [-Infinity]}')),
    "128 levels in the body": Bad("invalid_json", _raw(b"", _deep(128))),
    "a hundred thousand levels": Bad("invalid_json", _raw(b"", _deep(100_000))),
    "the model twice": Bad("invalid_json", _raw(b'"model": "forbidden", ')),
    "the model in two spellings": Bad("invalid_json", _raw(b'"mod\\u0065l": "forbidden", ')),
    "a compressed body": Bad("unsupported_encoding", headers={"Content-Encoding": "gzip"}),
    "a large body that is announced": Bad("request_too_large", send=_announced),
    "a large body that is not announced": Bad("request_too_large", send=_chunked),
}

ANOTHER_ENDPOINTS = {
    name: next(body["model"] for other, body in VALID.items() if body["model"] != VALID[name]["model"])
    for name in VALID
}


def _cases() -> list[Any]:
    """Every endpoint with everything that can be wrong with it."""
    cases = []
    for endpoint in ENDPOINTS:
        for name, bad in BAD.items():
            cases.append(pytest.param(endpoint, bad, id=f"{endpoint.name}-{name}"))
        other = Bad("model_not_priced", _but(model=ANOTHER_ENDPOINTS[endpoint.name]), "model")
        cases.append(pytest.param(endpoint, other, id=f"{endpoint.name}-a model of another endpoint"))
        for field_name, value, param in WRONG_FIELDS[endpoint.name]:
            wrong = Bad("invalid_value", _but(**{field_name: value}), param)
            cases.append(pytest.param(endpoint, wrong, id=f"{endpoint.name}-{field_name}={json.dumps(value)}"))
    return cases


async def _refused(rig: Rig, endpoint: Endpoint, bad: Bad) -> Heard:
    async with dial(rig) as wire:
        if bad.send is not None:
            await bad.send(wire, endpoint)
        else:
            body = bad.body(VALID[endpoint.name])
            path = bad.path or f"/v1{endpoint.path}"
            await wire.send(request(body, method=bad.method, path=path, key=bad.key, headers=bad.headers))
        return await wire.answer()


@pytest.mark.parametrize(("endpoint", "bad"), _cases())
async def test_bad_input_is_refused_as_documented_and_leaves_no_trace(
    make_rig: Callable[..., Any], endpoint: Endpoint, bad: Bad
) -> None:
    allow = '"gpt-*", "text-*", dall-e-3, veo-3, whisper-1, tts-1-hd, unpriced'
    expired = team_file("old", EXPIRED_KEY).replace('"}]', '", expires: 2026-01-31}]')
    caps = "{meter: usd, per: month, cap: 1000}, {meter: requests, per: day, cap: 1}, {meter: concurrent, cap: 1}"
    rig = await make_rig(models=MODELS, teams={"search": team_file(allow=allow, limits=caps), "old": expired})

    answer = await _refused(rig, endpoint, bad)

    status, kind = TYPES[bad.code]
    error = answer.error
    assert (answer.status, error["code"], error["type"], error["param"]) == (status, bad.code, kind, bad.param)
    assert set(answer.json) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) > 20
    assert re.fullmatch(r"req_[0-9a-f]{27}", answer.headers["x-request-id"])
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)
    assert (await ask(rig, VALID[endpoint.name], key="nobody's")).error["message"] == error["message"] or status != 401
    assert not rig.simulator.received
    assert rig.rows() == []
    for limit in await limits(rig):
        assert float(limit["held"]) == float(limit["spent"]) == 0, limit


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
async def test_what_is_good_is_answered(rig: Rig, endpoint: Endpoint) -> None:
    """Else the table above would prove nothing."""
    answer = await ask(rig, VALID[endpoint.name], path=f"/v1{endpoint.path}")
    assert answer.status == 200
    assert [row["endpoint"] for row in rig.rows()] == [endpoint.name]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
async def test_127_levels_and_keys_twice_below_the_top_are_good(rig: Rig, endpoint: Endpoint) -> None:
    made_explicit = {"images": {"n": 1}, "image_edits": {"n": 1}, "videos": {"duration": 4}}
    good = {**VALID[endpoint.name], **made_explicit.get(endpoint.name, {})}
    body = _raw(b"", _deep(127) + b', "user": {"a": 1, "a": 2}')(good)
    answer = await ask(rig, body, path=f"/v1{endpoint.path}")
    assert answer.status == 200
    assert rig.simulator.received[-1][1] == body


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-5", "/v1/usage"])
async def test_a_read_route_takes_get_alone(rig: Rig, path: str) -> None:
    answer = await ask(rig, {}, path=path)
    assert (answer.status, answer.error["code"], answer.headers["allow"]) == (405, "method_not_allowed", "GET")
    assert (await ask(rig, path=path, method="GET", key=None)).error["code"] == "invalid_api_key"
    assert (await ask(rig, path=path, method="GET")).status == 200


async def test_models_lists_what_the_team_may_call_and_nothing_else(make_rig: Callable[..., Any]) -> None:
    rig = await make_rig(teams={"search": team_file(allow='"gpt-5*"')})
    listed = (await ask(rig, path="/v1/models", method="GET")).json
    assert [model["id"] for model in listed["data"]] == ["gpt-5", "gpt-5-mini", "fast"]
    hidden = await ask(rig, path="/v1/models/claude-opus-4.6", method="GET")
    assert (hidden.status, hidden.error["code"]) == (404, "model_not_found")
    assert rig.rows() == []


async def test_a_listing_has_what_the_upstream_says_of_a_model(rig: Rig) -> None:
    described = (await ask(rig, path="/v1/models/fast", method="GET")).json
    assert described["id"] == "fast"
    async with rig.client.get(f"{rig.simulator.url}/models/gpt-5-mini", headers=ORG) as answer:
        theirs = await answer.json()
    assert described == {**theirs, "id": "fast"}
    assert theirs["context_window"] > 0


async def test_a_listing_is_there_though_the_upstream_is_not(rig: Rig) -> None:
    await rig.simulator.refuse()
    listed = await ask(rig, path="/v1/models", method="GET")
    assert listed.status == 200
    assert "gpt-5" in [model["id"] for model in listed.json["data"]]
