"""Images: what is refused, what is held, what goes upstream, and what an answer is charged."""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from oxyy_proxy.endpoints.base import Answer
from oxyy_proxy.endpoints.fields import MAX_ADDRESSES
from oxyy_proxy.endpoints.images import (
    DEFAULT_IMAGES,
    EDITS,
    GENERATIONS,
    MAX_IMAGES,
    MAX_MADE,
    TOKENS_PER_IMAGE,
    ImagesAsk,
    parse,
    parse_edit,
    parse_edit_form,
)
from oxyy_proxy.errors import InvalidJson, InvalidValue, UpstreamBadResponse, UpstreamErrorAnswer
from oxyy_proxy.rules.price import cost_nusd, worst_nusd
from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, PartTokens, Price, Usage
from tests.endpoints.test_fields import sent, texts
from tests.rules.policies import model

CENT = NUSD_PER_USD * PRICE_SCALE // 100
PARTS = PartTokens()
DALL_E = model(
    "dall-e-3", prices={"image": Price(4 * CENT, {"1024x1792": 8 * CENT, "hd": 9 * CENT, "hd:1024x1792": 12 * CENT})}
)
GPT_IMAGE = model("gpt-image-1", prices={"input": Price(5), "image_input": Price(10), "image_output": Price(40)})
BOTH = model("both", prices={"image": Price(4 * CENT), "input": Price(5), "output": Price(40)})
URL = "https://example.org/a.png"
PNG = b"\x89PNG\r\n\x1a\n--\r\n"


def ask(**members: Any) -> ImagesAsk:
    return parse(json.dumps({"model": "dall-e-3", "prompt": "a cat", **members}).encode())


def edit(**members: Any) -> ImagesAsk:
    return parse_edit(json.dumps({"model": "dall-e-3", "prompt": "a cat", **members}).encode())


def edit_form(*parts: tuple[str, str | bytes]) -> ImagesAsk:
    _, form, content_type = sent(("model", "dall-e-3"), ("prompt", "a cat"), *parts)
    return parse_edit_form(form, content_type)


def read(answer: object, asked: ImagesAsk | None = None, by: Any = DALL_E) -> Usage:
    usage = (asked or ask()).read(json.dumps(answer).encode(), by, PARTS).usage
    assert usage is not None
    return usage


def images(count: int, **more: Any) -> dict[str, Any]:
    return {"created": 1, "data": [{"url": URL}] * count, **more}


# What is refused.

WRONG: list[tuple[dict[str, Any], str]] = [
    *(({"prompt": value}, "prompt") for value in (None, "", 1, True, ["a"], {})),
    *(({"n": value}, "n") for value in (0, -1, 1.0, 1.5, True, "2", "x", [], MAX_IMAGES + 1, 10**30)),
    *(
        ({name: value}, name)
        for name in ("size", "quality")
        for value in (1, True, [], {}, "x" * 100, "a\nb", "\ud83c")
    ),
    *(({"stream": value}, "stream") for value in (True, "true", 1)),
    *(({"model": value}, "model") for value in (1, "", [])),
]


@pytest.mark.parametrize(("members", "param"), WRONG, ids=ascii)
def test_a_member_of_the_wrong_type_is_named(members: dict[str, Any], param: str) -> None:
    for make in (ask, lambda **members: edit(image=URL, **members)):
        with pytest.raises(InvalidValue) as caught:
            make(**members)
        assert (caught.value.param, caught.value.status, caught.value.code) == (param, 400, "invalid_value")


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        *(([("n", value)], "n") for value in ("0", " 1", "１", "1e1", "", "129", "x")),
        ([("size", "x" * 100)], "size"),
        ([("stream", "true")], "stream"),
        ([("size", b"file")], "size"),
    ],
)
def test_a_field_of_a_form_is_held_to_the_same(parts: list[tuple[str, str | bytes]], param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        edit_form(("image", PNG), *parts)
    assert caught.value.param == param


def test_a_prompt_must_be_there_in_a_form_too() -> None:
    _, form, content_type = sent(("image", PNG), ("prompt", ""))
    with pytest.raises(InvalidValue, match="prompt"):
        parse_edit_form(form, content_type)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({}, "image"),
        ({"image": None, "image_base64": None}, "image"),
        ({"image": []}, "image"),
        ({"image_base64": ""}, "image"),
        ({"mask": URL}, "image"),
        *(({"image": value}, "image") for value in (1, True, {}, "", [1], [URL, None])),
        *(({"image_base64": value}, "image_base64") for value in (1, ["AAAA"], {})),
        *(({"image": URL, "mask": value}, "mask") for value in (1, {}, "")),
        ({"image": [URL] * (MAX_ADDRESSES + 1)}, "image"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_edit_needs_an_image(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        edit(**members)
    assert caught.value.param == param


def test_a_form_without_an_image_is_refused() -> None:
    for parts in ([], [("mask", PNG)], [("images", PNG)], [("image_base64", "")]):
        with pytest.raises(InvalidValue, match="no image"):
            edit_form(*parts)


def test_a_body_that_is_no_json_is_refused() -> None:
    for make in (parse, parse_edit):
        with pytest.raises(InvalidJson):
            make(b"--x\r\n")


# What the upstream is asked to fetch.


def test_every_url_is_shown_wherever_it_stands() -> None:
    assert ask(image=1, url="http://10.0.0.1").urls == ()  # none of our business
    assert edit(image=URL).urls == ((URL, "image"),)
    assert edit(image=[URL, "b"], mask="c", image_base64="AAAA").urls == ((URL, "image"), ("b", "image"), ("c", "mask"))
    assert edit_form(("image", URL)).urls == ((URL, "image"),)
    assert edit_form(("image", PNG), ("mask", URL)).urls == ((URL, "mask"),)
    assert edit_form(("image[]", PNG), ("image", URL)).urls == ((URL, "image"),)
    assert edit_form(("image", PNG), ("image[]", URL)).urls == ((URL, "image"),)
    assert edit_form(("image", PNG), ("image", PNG), ("mask", PNG)).urls == ()


# What goes upstream.


def test_what_is_unknown_passes_byte_for_byte() -> None:
    raw = b'{ "model":"dall-e-3","n":2 ,"prompt":"\\ud83c","response_format":7, "seed":1e2,"user":{"a":[null]} }\n'
    assert parse(raw).body_for(DALL_E) is raw


def test_the_default_number_of_images_is_written_down() -> None:
    assert DEFAULT_IMAGES == 1
    assert json.loads(ask(size=None).body_for(DALL_E)) == {  # type: ignore[arg-type]
        "model": "dall-e-3",
        "prompt": "a cat",
        "size": None,
        "n": 1,
    }
    assert parse(b'{"prompt":"a","n":null,"model":"m"}').body_for(model("m")) == b'{"prompt":"a","n":1,"model":"m"}'


def test_the_model_is_set_where_it_is_another_or_none() -> None:
    assert parse(b'{"prompt":"a","n":3}').model is None
    assert parse(b'{"prompt":"a","n":3}').body_for(DALL_E) == b'{"prompt":"a","n":3,"model":"dall-e-3"}'
    assert parse(b'{"model":"art","prompt":"a","n":3}').body_for(DALL_E) == b'{"model":"dall-e-3","prompt":"a","n":3}'


def test_a_form_goes_up_with_its_files_as_they_are() -> None:
    given = sent(("image[]", PNG), ("image[]", PNG * 9), ("mask", PNG), ("prompt", "a"), ("n", "2"), ("model", "art"))
    asked = parse_edit_form(given.form, given.content_type)
    assert (asked.model, asked.content_type) == ("art", given.content_type)
    assert given.joined(asked.body_for(model("art"))) == given.raw
    assert given.joined(asked.body_for(DALL_E)) == given.raw.replace(b"art\r\n", b"dall-e-3\r\n")


def test_a_form_without_model_or_number_gets_both() -> None:
    given = sent(("image", PNG), ("prompt", "a"))
    asked = parse_edit_form(given.form, given.content_type)
    up = given.joined(asked.body_for(DALL_E))
    assert texts(up, given.content_type) == {"model": "dall-e-3", "n": "1", "prompt": "a"}
    assert up.endswith(given.raw)


def test_a_form_that_cannot_hold_a_model_is_refused_before_it_is_held_for() -> None:
    _, form, content_type = sent(("image", PNG), ("prompt", "a"), boundary="e")
    with pytest.raises(InvalidValue, match="boundary"):
        parse_edit_form(form, content_type).target(model("dall--e", prices=DALL_E.prices), PARTS)


# What is held.


@pytest.mark.parametrize(
    ("members", "cents"),
    [
        ({}, 12),
        ({"n": None}, 12),
        ({"n": 3}, 36),
        ({"n": 2, "size": "1024x1792"}, 24),
        ({"n": 2, "size": "1024x1792", "quality": "auto"}, 24),
        ({"size": "1024X1792 ", "quality": "HD"}, 12),
        ({"quality": "hd"}, 12),
        ({"size": "512x512", "quality": "hd"}, 12),
    ],
    ids=str,
)
def test_images_are_held_at_the_dearest_that_may_be_made(members: dict[str, Any], cents: int) -> None:
    held = ask(**members).target(DALL_E, PARTS)
    assert (held.worst_nusd, held.worst_tokens) == (cents * CENT // PRICE_SCALE, 0)


def test_tokens_are_held_for_the_prompt_the_pictures_and_the_images() -> None:
    assert ask(n=2).worst(GPT_IMAGE, PARTS) == Usage(input_tokens=3, output_tokens=2 * TOKENS_PER_IMAGE, images=2)
    small = model("m", prices=GPT_IMAGE.prices, max_output_tokens=100)
    assert ask(n=2).worst(small, PARTS).output_tokens == 200
    assert edit(image=[URL, URL], mask=URL, image_base64="AAAA").worst(small, PARTS).input_tokens == 3 + 4 * 1600
    form = edit_form(("image", PNG), ("image", PNG), ("mask", PNG), ("mask[1]", URL), ("image_base64", "AAAA"))
    assert form.worst(small, PartTokens(image=10)).input_tokens == 3 + 50


def test_the_largest_request_at_the_dearest_price_fits_64_bits() -> None:
    each, million = Price(10**6 * 100 * CENT), Price(10**6 * NUSD_PER_USD)
    prices = {"image": each, "request": each, "input": million, "output": million, "image_output": million}
    dearest = model("m", prices=prices, max_output_tokens=10**7)
    asked = edit(prompt="x" * 10**7, n=MAX_IMAGES, image=[URL] * MAX_ADDRESSES)
    assert asked.target(dearest, PARTS).worst_nusd < 2**62
    found = asked.read(b'{"data":[' + b"1," * (MAX_MADE - 1) + b"1]}", dearest, PARTS).usage
    assert found is not None
    assert found.images == MAX_MADE
    assert cost_nusd(found, dearest.prices) < 2**63


def test_ten_megabytes_of_image_are_not_kept_beside_the_body() -> None:
    raw = b'{"prompt":"a","image_base64":"' + b"A" * 10_000_000 + b'"}'
    asked = parse_edit(raw)
    gc.collect()
    kept = asked._fields.members.values()  # type: ignore[attr-defined]
    assert sum(map(sys.getsizeof, kept)) < 1000
    assert asked.worst(GPT_IMAGE, PARTS).input_tokens == 1 + 1600
    assert len(asked.body_for(DALL_E)) == len(raw) + len(b',"model":"dall-e-3","n":1')


# What an answer is charged.


def test_what_is_charged_is_what_the_answer_holds() -> None:
    asked = ask(n=3, size="1024x1792", quality="hd")
    for count in (1, 2, 3, 5):
        usage = read(images(count), asked)
        assert usage == Usage(images=count, quality="hd", size="1024x1792", source="computed")
        assert cost_nusd(usage, DALL_E.prices) == count * 12 * CENT // PRICE_SCALE


@pytest.mark.parametrize(
    ("said", "quality", "size"),
    [
        ({}, "hd", "1024x1024"),
        ({"quality": "low", "size": "512x512"}, "low", "512x512"),
        ({"quality": "auto", "size": "AUTO"}, "hd", "1024x1024"),
        ({"quality": "auto ", "size": " Auto"}, "hd", "1024x1024"),
        ({"quality": "", "size": None}, "hd", "1024x1024"),
        ({"quality": 1, "size": ["512x512"]}, "hd", "1024x1024"),
        ({"quality": "x" * 100, "size": "1" * 100}, "hd", "1024x1024"),
    ],
    ids=str,
)
def test_the_variant_is_the_one_that_was_made_if_the_answer_says_so(
    said: dict[str, Any], quality: str, size: str
) -> None:
    usage = read(images(1, **said), ask(quality="hd", size="1024x1024"))
    assert (usage.quality, usage.size) == (quality, size)


SAID = {"input_tokens": 50, "output_tokens": 272, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}
TOLD = Usage(input_tokens=50, image_input_tokens=40, output_tokens=272, image_output_tokens=272, images=1)


def test_tokens_are_charged_where_they_have_a_price() -> None:
    assert read(images(1, usage=SAID), by=GPT_IMAGE) == TOLD
    assert read(images(1, usage=SAID), by=BOTH) == TOLD
    split = SAID | {"output_tokens_details": {"image_tokens": 200, "text_tokens": 72}}
    assert read(images(1, usage=split), by=GPT_IMAGE) == replace(TOLD, image_output_tokens=200)
    assert read({"data": [], "usage": SAID}, by=GPT_IMAGE) == replace(TOLD, images=0)


def test_tokens_without_a_price_were_not_held_and_count_for_nothing() -> None:
    assert read(images(2, usage=SAID)) == Usage(images=2, source="computed")


ODD_USAGE: list[object] = [
    None, [], "x", 1, {}, {"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 5}, {"output_tokens": 5},
    {"input_tokens": -1, "output_tokens": 5}, {"input_tokens": 1.5, "output_tokens": 5},
    {"input_tokens": True, "output_tokens": 5}, {"input_tokens": "1", "output_tokens": 5},
    {"input_tokens": 2**31, "output_tokens": 5}, {"input_tokens": float("nan"), "output_tokens": 5},
    {"total_tokens": 10**400},
]  # fmt: skip


@pytest.mark.parametrize("usage", ODD_USAGE, ids=lambda value: str(value)[:50])
def test_an_answer_that_does_not_say_is_charged_by_the_image_or_estimated(usage: object) -> None:
    answer = images(2, usage=usage)
    assert read(answer) == read(answer, by=BOTH) == Usage(images=2, source="computed")
    estimated = read(answer, ask(n=3), by=GPT_IMAGE)
    tokens_out = 2 * TOKENS_PER_IMAGE
    assert estimated == Usage(
        input_tokens=2, output_tokens=tokens_out, image_output_tokens=tokens_out, images=2, source="estimated"
    )
    assert 0 < cost_nusd(estimated, GPT_IMAGE.prices) <= worst_nusd(ask(n=3).worst(GPT_IMAGE, PARTS), GPT_IMAGE.prices)


@pytest.mark.parametrize("details", [None, [], "x", {"image_tokens": -1}, {"image_tokens": "4"}, {"text_tokens": 1}])
def test_odd_details_are_no_details(details: object) -> None:
    usage = {
        "input_tokens": 50,
        "output_tokens": 272,
        "input_tokens_details": details,
        "output_tokens_details": details,
    }
    assert read(images(1, usage=usage), by=GPT_IMAGE) == replace(TOLD, image_input_tokens=0)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b"null", b"{}", b'{"data":null}', b'{"data":{}}', b'{"data":"abc"}', b'{"data":7}',
        b'{"data":[]}', b'{"data":[],"usage":{"input_tokens":0,"output_tokens":0}}', b'{"data":', b"\xff", b"[" * 9999,
        b'{"data":null,"usage":{"input_tokens":5,"output_tokens":5}}',
        b'{"error":null}', b'{"data":[' + b"1," * MAX_MADE + b"1]}",
    ],
    ids=lambda body: ascii(body[:40]),
)  # fmt: skip
@pytest.mark.parametrize("by", [DALL_E, GPT_IMAGE], ids=lambda model: model.name)
def test_an_answer_without_images_is_none(body: bytes, by: Any) -> None:
    with pytest.raises(UpstreamBadResponse):
        ask().read(body, by, PARTS)


@pytest.mark.parametrize("error", [{"message": "no"}, "no", ["no"], 1, {"message": {"a": "\ud83c"}}])
def test_an_error_with_status_200_costs_nothing(error: object) -> None:
    for more in ({}, {"data": []}, images(1)):
        with pytest.raises(UpstreamErrorAnswer):
            ask().read(json.dumps({**more, "error": error}).encode(), DALL_E, PARTS)


def test_what_other_members_say_does_not_matter() -> None:
    raw = b'{"data":[{"b64_json":"AA"},null,1],"created":NaN,"error":null,"x":"\\ud83c","y":-Infinity}'
    assert ask().read(raw, DALL_E, PARTS) == Answer(Usage(images=3, source="computed"))


def test_an_estimate_is_by_the_image_where_that_has_a_price() -> None:
    for by in (DALL_E, BOTH):
        assert ask(n=2, size="a").likely_usage(by, PARTS, 0) == Usage(images=2, size="a", source="estimated")
    estimated = edit(n=2, image=URL).likely_usage(GPT_IMAGE, PARTS, 0)
    assert (estimated.input_tokens, estimated.image_output_tokens) == (2 + 1600, 2 * TOKENS_PER_IMAGE)


def test_the_endpoints_are_charged_by_the_image_or_by_tokens() -> None:
    for endpoint, name, path in ((GENERATIONS, "images", "generations"), (EDITS, "image_edits", "edits")):
        assert (endpoint.name, endpoint.path) == (name, f"/images/{path}")
        assert {frozenset({"image"}), frozenset({"input", "output"})} <= set(endpoint.bases)
        assert endpoint.after_ambiguous == 1
    assert (EDITS.max_form_bytes, GENERATIONS.parse_form) == (20 * 1024 * 1024, None)
