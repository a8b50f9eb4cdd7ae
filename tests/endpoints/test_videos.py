"""Videos: what is refused, what is held, what goes upstream, and what is read from a job."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from oxyy_proxy.endpoints.base import Answer, JobSeen
from oxyy_proxy.endpoints.videos import (
    DEFAULT_SECONDS,
    ENDPOINT,
    MAX_ID_CHARS,
    MAX_SECONDS,
    VideosAsk,
    parse,
    parse_form,
    read_job,
)
from oxyy_proxy.errors import InvalidJson, InvalidValue, UpstreamBadResponse, UpstreamErrorAnswer
from oxyy_proxy.policyfiles.values import MAX_PRICE, MAX_VIDEO_SECONDS
from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, PartTokens, Price, Usage
from tests.endpoints.test_fields import sent, texts
from tests.rules.policies import model

CENT = NUSD_PER_USD * PRICE_SCALE // 100
PARTS = PartTokens()
PRICES = {"video_second": Price(40 * CENT, {"1080p": 50 * CENT, "720p": 20 * CENT})}
VEO = model("veo-3", prices=PRICES)
SHORT = model("veo-short", prices=PRICES, default_seconds=6, max_seconds=8)
URL = "https://example.org/a.png"
PNG = b"\x89PNG\r\n\x1a\n"


def ask(**members: Any) -> VideosAsk:
    return parse(json.dumps({"model": "veo-3", "prompt": "a lake", **members}).encode())


def ask_form(*parts: tuple[str, str | bytes]) -> VideosAsk:
    _, form, content_type = sent(("model", "veo-3"), ("prompt", "a lake"), *parts)
    return parse_form(form, content_type)


def submitted(answer: object) -> JobSeen:
    found = ask().read(json.dumps(answer).encode(), VEO, PARTS)
    assert found.job is not None
    assert found == Answer(None, job=found.job)  # nothing is charged for taking it on
    return found.job


def polled(answer: object, job_id: str = "job_1") -> JobSeen:
    return read_job(job_id, json.dumps(answer).encode())


# What is refused.


@pytest.mark.parametrize(
    ("members", "param"),
    [
        *(({"prompt": value}, "prompt") for value in (None, "", 1, True, ["a"])),
        *(
            ({"duration": value}, "duration")
            for value in (0, -1, 4.0, 4.5, True, False, "4", "x", [], MAX_SECONDS + 1, 10**30)
        ),
        *(({"resolution": value}, "resolution") for value in (1, True, [], {}, "x" * 100, "\ud83c", "1080p\n")),
        *(({"image_base64": value}, "image_base64") for value in (1, [], {})),
        *(({"image": value}, "image") for value in (1, {}, "", [1])),
        *(({"model": value}, "model") for value in (1, "", [])),
    ],
    ids=ascii,
)
def test_a_member_of_the_wrong_type_is_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ask(**members)
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


@pytest.mark.parametrize("value", ["0", "", " 4", "4.0", "4s", "４", "4e0", "04", "7201", "9" * 5000])
def test_a_length_in_a_form_is_held_to_the_same(value: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ask_form(("image", PNG), ("duration", value))
    assert caught.value.param == "duration"


def test_a_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidJson):
        parse(b"")


@pytest.mark.parametrize("seconds", [9, 60, MAX_SECONDS])
def test_more_than_the_model_makes_is_refused_with_its_name_and_most(seconds: int) -> None:
    for asked in (ask(duration=seconds), ask_form(("duration", str(seconds)))):
        with pytest.raises(InvalidValue, match="veo-short makes 8 at most") as caught:
            asked.target(SHORT, PARTS)
        assert caught.value.param == "duration"
        assert asked.target(VEO, PARTS).worst_nusd == seconds * 50 * CENT // PRICE_SCALE
    assert ask(duration=8).target(SHORT, PARTS).worst_nusd == 8 * 50 * CENT // PRICE_SCALE


# What the upstream is asked to fetch.


def test_every_url_is_shown_wherever_it_stands() -> None:
    assert ask(image=URL).urls == ((URL, "image"),)
    assert ask(image=[URL, "b"]).urls == ((URL, "image"), ("b", "image"))
    assert ask(image_base64="AAAA").urls == ask().urls == ()
    assert ask_form(("image", URL)).urls == ((URL, "image"),)
    assert ask_form(("image", PNG)).urls == ()
    assert ask_form(("image", PNG), ("image[]", URL)).urls == ((URL, "image"),)


# What goes upstream.


def test_what_is_unknown_passes_byte_for_byte() -> None:
    raw = b'{ "model":"veo-3","duration":8 ,"prompt":"\\ud83c","seed":1e2,"n":"x","audio":{"a":[null]} }\n'
    assert parse(raw).body_for(VEO) is raw


@pytest.mark.parametrize(
    ("given", "most", "seconds"), [(None, None, 4), (6, None, 6), (6, 8, 6), (None, 8, 4), (None, 3, 3)]
)
def test_the_length_is_written_down_where_the_request_is_silent(
    given: int | None, most: int | None, seconds: int
) -> None:
    assert DEFAULT_SECONDS == 4
    by = model("veo-3", prices=PRICES, default_seconds=given, max_seconds=most)
    assert ask().worst(by, PARTS).video_ms == seconds * 1000
    assert json.loads(ask(duration=None).body_for(by))["duration"] == seconds  # type: ignore[arg-type]
    assert parse(b'{"prompt":"a"}').body_for(by) == b'{"prompt":"a","model":"veo-3","duration":%d}' % seconds
    upload = sent(("image", PNG), ("prompt", "a"), ("model", "fast"))
    up = upload.joined(parse_form(upload.form, upload.content_type).body_for(by))
    assert texts(up, upload.content_type) == {"duration": str(seconds), "prompt": "a", "model": "veo-3"}


def test_each_target_has_its_own_default() -> None:
    asked = ask()
    assert [json.loads(asked.body_for(by))["duration"] for by in (VEO, SHORT)] == [4, 6]  # type: ignore[arg-type]
    assert [asked.worst(by, PARTS).video_ms for by in (VEO, SHORT)] == [4000, 6000]


def test_a_form_goes_up_with_its_file_as_it_is() -> None:
    given = sent(("image", PNG), ("duration", "4"), ("prompt", "a"), ("model", "veo-3"), ("x", "y"))
    asked = parse_form(given.form, given.content_type)
    assert given.joined(asked.body_for(VEO)) == given.raw
    assert asked.content_type == given.content_type


def test_a_form_that_cannot_hold_a_model_is_refused_before_it_is_held_for() -> None:
    _, form, content_type = sent(("prompt", "a"), boundary="3")
    with pytest.raises(InvalidValue, match="boundary"):
        parse_form(form, content_type).target(model("veo--3", prices=PRICES), PARTS)


def test_an_image_is_not_kept_beside_the_body() -> None:
    asked = ask(image_base64="A" * 1_000_000)
    assert sum(map(sys.getsizeof, asked._fields.members.values())) < 1000  # type: ignore[attr-defined]
    assert len(asked.body_for(VEO)) > 1_000_000


# What is held.


@pytest.mark.parametrize(("resolution", "cents"), [(None, 50), ("", 50), ("1080P ", 50), ("720p", 20), ("4k", 50)])
def test_a_video_is_held_at_its_length_and_the_dearest_resolution_it_may_have(
    resolution: str | None, cents: int
) -> None:
    held = ask(duration=10, resolution=resolution).target(VEO, PARTS)
    assert (held.worst_nusd, held.worst_tokens) == (10 * cents * CENT // PRICE_SCALE, 0)


def test_the_longest_video_at_the_dearest_price_fits_64_bits() -> None:
    assert MAX_SECONDS == MAX_VIDEO_SECONDS
    dearest = model("m", prices=dict.fromkeys(("video_second", "request"), Price(int(MAX_PRICE) * 100 * CENT)))
    assert ask(duration=MAX_SECONDS).target(dearest, PARTS).worst_nusd < 2**63


def test_an_estimate_is_what_was_asked_for() -> None:
    estimated = ask(duration=8, resolution="720p").likely_usage(VEO, PARTS, 0)
    assert estimated == Usage(video_ms=8000, size="720p", source="estimated")
    assert ask().likely_usage(SHORT, PARTS, 0).video_ms == 6000


# Taking a job on.


def test_a_job_is_taken_on_by_its_id() -> None:
    documented = {"id": "job_vid_abc123def456", "status": "queued", "model": "veo-3", "estimated_wait": "30-60s"}
    assert submitted(documented) == JobSeen("job_vid_abc123def456", "running")
    assert submitted({"id": "models/veo-3/operations/a.b~c@d:1,=+"}).job_id == "models/veo-3/operations/a.b~c@d:1,=+"
    assert submitted({"id": "j" * MAX_ID_CHARS}).state == "running"
    assert submitted({"id": "j", "status": "completed", "duration": 4}) == JobSeen("j", "completed", 4000)
    assert submitted({"id": "j", "status": "failed"}).state == "failed"


@pytest.mark.parametrize(
    "job_id",
    [
        None,
        "",
        1,
        True,
        ["a"],
        {},
        "j" * (MAX_ID_CHARS + 1),
        "a b",
        "a\r\nX: y",
        "a\0",
        "a?b",
        "a#b",
        "a%2Fb",
        "é",
        "\ud83c",
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_job_that_cannot_be_asked_for_may_have_cost(job_id: object) -> None:
    with pytest.raises(UpstreamBadResponse):
        submitted({"id": job_id, "status": "queued"})


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"{}", b'{"id":', b"\xff", b'{"status":"queued"}'])
def test_an_answer_without_a_job_may_have_cost(body: bytes) -> None:
    with pytest.raises(UpstreamBadResponse):
        ask().read(body, VEO, PARTS)


@pytest.mark.parametrize(
    "more", [{}, {"id": "req_1"}, {"id": "j", "status": "failed"}, {"id": "j", "status": "error"}, {"status": []}]
)
def test_an_error_with_status_200_costs_nothing(more: dict[str, Any]) -> None:
    for error in ({"message": "no"}, "no", 1, ["no"]):
        with pytest.raises(UpstreamErrorAnswer):
            submitted({"error": error, **more})


@pytest.mark.parametrize("status", ["queued", "processing", "in_progress", "completed"])
def test_a_job_that_goes_on_is_followed_whatever_error_is_told_beside_it(status: str) -> None:
    assert submitted({"id": "j", "status": status, "error": {"message": "slow"}}).job_id == "j"


# What a job has come to.


def test_a_completed_job_tells_its_length_and_resolution() -> None:
    documented = {"id": "job_1", "status": "completed", "video_url": URL, "duration": 4, "resolution": "1080p"}
    assert polled(documented) == JobSeen("job_1", "completed", 4000, "1080p")
    assert polled({**documented, "duration": 5.42}).video_ms == 5420
    assert polled({**documented, "duration": 0.07}).video_ms == 70
    assert polled({**documented, "duration": "8"}).video_ms == 8000
    assert polled({**documented, "duration": MAX_SECONDS}).video_ms == MAX_SECONDS * 1000


@pytest.mark.parametrize(
    "duration",
    [None, 0, -4, True, "", "x", [], {}, float("nan"), float("inf"), float("-inf"), MAX_SECONDS + 1, 1e308, 10**400],
    ids=lambda value: str(value)[:20],
)
def test_a_length_that_makes_no_sense_is_not_known(duration: object) -> None:
    assert polled({"id": "job_1", "status": "completed", "duration": duration}) == JobSeen("job_1", "completed")


@pytest.mark.parametrize("resolution", [None, 1080, [], {}, "x" * 100, "auto", " AUTO"])
def test_a_resolution_that_makes_no_sense_is_not_known(resolution: object) -> None:
    assert polled({"status": "completed", "duration": 4, "resolution": resolution}) == JobSeen(
        "job_1", "completed", 4000
    )


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("completed", "completed"),
        ("failed", "failed"),
        *((odd, "running") for odd in ("queued", "processing", "Completed", "cancelled", "", None, 1, True, [], {})),
    ],
    ids=str,
)
def test_only_the_documented_ends_are_ends(status: object, state: str) -> None:
    assert polled({"id": "job_1", "status": status}).state == state


def test_a_failed_job_may_tell_why() -> None:
    assert polled({"id": "job_1", "status": "failed", "error": {"message": "no"}}) == JobSeen("job_1", "failed")
    assert polled({"error": {"message": "try later"}}).state == "running"


@pytest.mark.parametrize("job_id", ["job_2", "", 1, [], {"a": 1}, True])
def test_an_answer_for_another_job_says_nothing_of_this_one(job_id: object) -> None:
    with pytest.raises(UpstreamBadResponse):
        polled({"id": job_id, "status": "completed"})


def test_an_answer_without_an_id_is_for_the_job_that_was_asked_for() -> None:
    assert polled({"status": "failed"}).job_id == polled({"id": None, "status": "failed"}).job_id == "job_1"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"completed"', b"\xff", b"[" * 9999])
def test_a_poll_that_is_no_object_is_a_bad_answer(body: bytes) -> None:
    with pytest.raises(UpstreamBadResponse):
        read_job("job_1", body)


def test_the_endpoint_is_charged_by_the_second_and_never_tried_twice() -> None:
    assert (ENDPOINT.name, ENDPOINT.path) == ("videos", "/videos/generations")
    assert ENDPOINT.bases == (frozenset({"video_second"}),)
    assert (ENDPOINT.after_ambiguous, ENDPOINT.max_form_bytes) == (0, 20 * 1024 * 1024)
    assert ENDPOINT.parse_form is parse_form
