"""What holds for every endpoint alike: defaults, unknown parameters, budgets, failover, books that equal the bill."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from oxyy_proxy.endpoints import ENDPOINTS
from oxyy_proxy.endpoints.base import Endpoint
from tests.rig import MODELS, Rig, team_file
from tests.steps.test_exchange import VALID
from tests.steps.wires import Heard, ask, assert_books_are_right, limits, until

every = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)

MADE_EXPLICIT: dict[str, dict[str, Any]] = {"images": {"n": 1}, "image_edits": {"n": 1}, "videos": {"duration": 4}}
"""What the documentation says is the default, and is sent."""


async def post(rig: Rig, endpoint: Endpoint, body: object) -> Heard:
    return await ask(rig, body, path=f"/v1{endpoint.path}")


async def settled(rig: Rig) -> dict[str, Any]:
    """The one row, once it has ended; the job of a video is completed for that."""
    for job_id, job in rig.simulator.jobs.items():
        if job.status not in ("completed", "failed"):
            rig.simulator.complete(job_id)
        await rig.get(f"/videos/generations/{job_id}")
    await until(lambda: [row["state"] for row in rig.rows()] == ["settled"])
    return rig.rows()[0]


@every
async def test_what_is_charged_equals_the_bill_and_is_never_more_than_was_held(rig: Rig, endpoint: Endpoint) -> None:
    answer = await post(rig, endpoint, VALID[endpoint.name])
    assert answer.status == 200
    assert answer.headers["x-oxyy-model"] == VALID[endpoint.name]["model"]
    row = await settled(rig)
    (entry,) = rig.simulator.bill
    assert (row["endpoint"], row["request_id"]) == (entry.endpoint, entry.request_id)
    if endpoint.name == "transcriptions":  # nobody says how long a file is that lies elsewhere
        assert row["usage_source"] == "estimated"
    else:
        assert row["cost_nusd"] == entry.cost_nusd
    assert 0 < row["cost_nusd"] <= row["hold_nusd"]
    await assert_books_are_right(rig)


@every
async def test_a_body_without_a_model_gets_the_default(make_rig: Callable[..., Any], endpoint: Endpoint) -> None:
    good = {**VALID[endpoint.name], **MADE_EXPLICIT.get(endpoint.name, {})}
    model = good.pop("model")
    rig = await make_rig(models=f"{MODELS}default_models: {{{endpoint.name}: {model}}}\n")
    answer = await post(rig, endpoint, good)
    assert (answer.status, answer.headers["x-oxyy-model"]) == (200, model)
    assert json.loads(rig.simulator.received[-1][1]) == {**good, "model": model}


@every
async def test_parameters_that_are_not_known_pass_untouched(rig: Rig, endpoint: Endpoint) -> None:
    good = {**VALID[endpoint.name], **MADE_EXPLICIT.get(endpoint.name, {})}
    odd = (
        ', "a_number": 1.0, "b": 1e-7, "big": 123456789012345678901234567890, "text":"\\u00e9\\ud83c\\udfa7\\/"'
        ' ,"nested" : {"n": [ {"size": null}, true ], "": 0}, "seconds": "8", "ümlaut": "ü"\n}'
    )
    body = (json.dumps(good)[:-1] + odd).encode()
    assert (await post(rig, endpoint, body)).status == 200
    assert rig.simulator.received[-1][1] == body


@every
async def test_a_budget_that_has_no_room_refuses_before_anything_is_sent(
    make_rig: Callable[..., Any], endpoint: Endpoint
) -> None:
    rig = await make_rig(teams={"search": team_file(limits="{meter: usd, per: month, cap: 0.000000001}")})
    answer = await post(rig, endpoint, VALID[endpoint.name])
    assert (answer.status, answer.error["code"]) == (429, "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    assert not rig.simulator.received
    assert rig.rows() == []
    (limit,) = await limits(rig)
    assert (limit["held"], limit["spent"]) == ("0.00", "0.00")


@every
async def test_every_endpoint_fails_over(make_rig: Callable[..., Any], endpoint: Endpoint) -> None:
    names = ", ".join(one.name for one in ENDPOINTS)
    price = "{input: 1, output: 1, image: 0.1, video_second: 0.1, audio_minute: 0.1, character: 1}"
    models = f"version: 1\nmodels:\n  second: {{endpoints: [{names}], price: {price}}}\n"
    model = VALID[endpoint.name]["model"]
    models += f"  {model}: {{endpoints: [{names}], price: {price}, fallbacks: [second]}}\n"
    rig = await make_rig(models=models)
    rig.simulator.faults.add({"fault": "status", "status": 500, "model": model})
    await post(rig, endpoint, VALID[endpoint.name])
    assert [json.loads(body)["model"] for _, body in rig.simulator.received] == [model, "second"]


@every
async def test_every_error_of_the_upstream_costs_nothing(rig: Rig, endpoint: Endpoint) -> None:
    body = {**VALID[endpoint.name], "simulate": {"fault": "status", "status": 400}}
    answer = await post(rig, endpoint, body)
    assert answer.status == 400
    (row,) = rig.rows()
    assert (row["state"], row["cost_nusd"], row["unresolved_nusd"]) == ("voided", 0, 0)
    (limit,) = await limits(rig)
    assert (limit["held"], limit["spent"]) == ("0.00", "0.00")


@every
async def test_every_answer_that_is_lost_stays_held(make_rig: Callable[..., Any], endpoint: Endpoint) -> None:
    rig = await make_rig(models=MODELS.replace(", fallbacks: [gpt-5-mini]", ""))
    body = {**VALID[endpoint.name], "simulate": {"fault": "reset_before_headers"}}
    assert (await post(rig, endpoint, body)).status == 502
    (row,) = rig.rows()
    assert (row["state"], row["cost_nusd"]) == ("unresolved", 0)
    assert row["unresolved_nusd"] > 0
    (limit,) = await limits(rig)
    assert round(float(limit["held"]) * 1e9) == row["unresolved_nusd"]
    await assert_books_are_right(rig)
