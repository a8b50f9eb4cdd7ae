import pytest

from .conftest import dial, hear, question

VIDEO = {"model": "veo-3", "prompt": "A lake", "simulate": {"job_s": None}}


async def get(http, path, method="GET", **more):
    async with http.request(method, path, **more) as response:
        return response.status, await response.json()


async def test_the_bill_can_be_read_from_where_one_left_off(http, ask):
    await ask()
    await ask(simulate={"words": 10})
    status, bill = await get(http, "/-/bill?since_seq=1")
    (entry,) = bill["entries"]
    assert (status, bill["total_nusd"]) == (200, entry["cost_nusd"])
    assert entry == {
        "seq": 2,
        "request_id": None,
        "endpoint": "chat",
        "model": "gpt-5",
        "stream": False,
        "status": 200,
        "input_tokens": 5,
        "cached_input_tokens": 0,
        "output_tokens": 10,
        "cost_nusd": 5 * 1250 + 10 * 10_000,
        "billed": True,
        "fault": None,
        "images": 0,
        "video_ms": 0,
        "audio_ms": 0,
        "characters": 0,
    }


async def test_the_bill_can_be_torn_up(http, sim, ask):
    await ask()
    assert await get(http, "/-/bill", "DELETE") == (200, {"entries": [], "total_nusd": 0})
    assert sim.bill == []


async def test_faults_are_put_read_and_deleted(http, sim, ask):
    written = [{"fault": "status", "status": 503, "model": "gpt-5", "times": 1}, {"fault": "empty"}]
    assert await get(http, "/-/faults", "PUT", json=written) == (200, {"faults": written})
    assert (await ask()).status == 503
    assert (await get(http, "/-/faults"))[1]["faults"][0]["times"] == 0
    assert (await ask()).body == b""
    assert await get(http, "/-/faults", "DELETE") == (200, {"faults": []})
    assert (await ask()).body != b""
    assert [entry.fault for entry in sim.bill] == ["status", "empty", None]


async def test_one_fault_needs_no_list_and_replaces_the_others(http, sim):
    sim.faults.add({"fault": "empty"})
    assert await get(http, "/-/faults", "PUT", json={"fault": "drip"}) == (200, {"faults": [{"fault": "drip"}]})


async def test_an_outage_answers_first_and_then_refuses(http, sim):
    outage = {"fault": "refuse", "for_s": 30}
    assert await get(http, "/-/faults", "PUT", json=outage) == (200, {"faults": [outage]})
    with pytest.raises(ConnectionRefusedError):
        await dial(sim, question())
    await sim.accept()
    assert (await hear(await dial(sim, question()))).status == 200


@pytest.mark.parametrize("raw", [b"{", b'{"fault": "nope"}', b"[1]"])
async def test_a_fault_that_cannot_be_changes_nothing(http, sim, raw):
    sim.faults.add({"fault": "empty"})
    status, answer = await get(http, "/-/faults", "PUT", data=raw)
    assert status == 400
    assert len(answer["error"]["message"]) > 20
    assert sim.faults.as_json() == [{"fault": "empty"}]


async def test_healthz_tells_what_is_in_flight(http, sim):
    sock = await dial(sim, question(simulate={"fault": "hang_before_headers"}))
    await sim.wait_for(lambda: sim.in_flight == 1)
    assert await get(http, "/-/healthz") == (200, {"status": "ok", "in_flight": 1})
    sock.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "names"),
    [
        ("GET", "/-/bills", 404, "/-/bill, /-/faults, /-/jobs, /-/jobs/{id}, /-/healthz"),
        ("GET", "/-/jobs/x", 405, "PUT"),
        ("POST", "/-/faults", 405, "GET, PUT, DELETE"),
        ("GET", "/-/bill?since_seq=x", 400, "seq of the last entry"),
    ],
)
async def test_a_wrong_control_request_is_told_what_there_is(http, method, path, status, names):
    answered, answer = await get(http, path, method)
    assert answered == status
    assert names in answer["error"]["message"]


async def test_jobs_are_listed_and_ended_on_demand(http, sim, post):
    good, bad = [(await post("/videos/generations", VIDEO)).json["id"] for _ in range(2)]
    listed = (await get(http, "/-/jobs"))[1]["jobs"]
    assert [(job["id"], job["status"], job["polls"], job["duration"]) for job in listed] == [
        (good, "queued", 0, 4),
        (bad, "queued", 0, 4),
    ]
    wanted = {"status": "completed", "duration": 2.5, "resolution": "1080p"}
    status, ended = await get(http, f"/-/jobs/{good}", "PUT", json=wanted)
    assert (status, {key: ended[key] for key in wanted}) == (200, wanted)
    assert (await get(http, f"/-/jobs/{bad}", "PUT", json={"status": "failed"}))[1]["status"] == "failed"
    assert [(entry.video_ms, entry.cost_nusd) for entry in sim.bill] == [(2500, 1_250_000_000)]


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"status": "queued"}', 400),
        (b'{"status": "completed", "duration": -1}', 400),
        (b'{"status": "completed", "duration": "4"}', 400),
        (b'{"status": "completed", "resolution": 720}', 400),
    ],
)
async def test_an_end_that_cannot_be_leaves_the_job_running(http, sim, post, wanted, status):
    job_id = (await post("/videos/generations", VIDEO)).json["id"]
    assert (await get(http, f"/-/jobs/{job_id}", "PUT", data=wanted))[0] == status
    assert sim.jobs[job_id].status == "queued"


async def test_a_job_that_has_ended_or_never_was_cannot_be_ended(http, sim, post):
    job_id = (await post("/videos/generations", VIDEO)).json["id"]
    sim.fail(job_id)
    assert (await get(http, f"/-/jobs/{job_id}", "PUT", json={"status": "completed"}))[0] == 409
    assert (await get(http, "/-/jobs/job_vid_0", "PUT", json={"status": "completed"}))[0] == 404
    assert sim.bill == []
