import asyncio
import base64
import hashlib

import aiohttp
import openai
import pytest

from oxyy_proxy.simulator import Simulator

from .conftest import KEY, dial, hear, question

MESSAGES = [{"role": "user", "content": "Hello!"}]


async def test_a_wrong_key_is_a_401_and_not_billed(sim):
    async with openai.AsyncOpenAI(api_key="sk-wrong", base_url=sim.url, max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.chat.completions.create(model="gpt-5", messages=MESSAGES)
    assert (refused.value.type, refused.value.code) == ("authentication_error", "invalid_api_key")
    assert sim.bill == []


async def test_without_an_org_key_any_key_will_do():
    sim = Simulator()
    await sim.start()
    assert (await hear(await dial(sim, question()))).status == 200
    await sim.stop()


async def test_an_unknown_model_is_a_404_and_not_billed(client, sim):
    with pytest.raises(openai.NotFoundError) as refused:
        await client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert (refused.value.type, refused.value.code) == ("invalid_request_error", "model_not_found")
    assert sim.bill == []


async def test_a_faulty_status_reaches_the_sdk_as_its_own_error(client, sim):
    sim.faults.add({"fault": "status", "status": 503, "model": "gpt-5"})
    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(model="gpt-5", messages=MESSAGES)
    assert failed.value.status_code == 503
    answer = await client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES)
    assert answer.model == "gpt-5-mini"


async def test_the_request_id_and_what_was_sent_are_kept(sim):
    body = b'{"model": "gpt-5",   "messages": [{"role": "user", "content": "Hello!"}]}'
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "r-1", "X-Other": "a"}
    url = f"{sim.url}/chat/completions"
    async with aiohttp.ClientSession() as http, http.post(url, data=body, headers=headers) as response:
        assert response.status == 200
        assert response.headers["x-request-id"].startswith("req_")
    assert sim.bill[0].request_id == "r-1"
    sent, raw = sim.received[0]
    assert (raw, sent["x-other"], sent["x-request-id"]) == (body, "a", "r-1")
    assert list(sim.received_paths) == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/videos/generations", 405, "method_not_allowed"),
        ("POST", "/v1/videos/generations/x", 404, "unknown_url"),
        ("GET", "/v1/modelsx", 404, "unknown_url"),
    ],
)
async def test_other_routes_are_refused(sim, method, path, status, code):
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(sim.origin) as http, http.request(method, path, headers=headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (status, code)


async def test_a_client_that_expects_100_continue_is_answered(sim):
    url, headers = f"{sim.url}/chat/completions", {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(url, json=question(), expect100=True) as response,
    ):
        assert response.status == 200


async def test_a_thousand_streams_at_once_are_all_billed(sim):
    asked = question(stream=True, simulate={"words": 5, "delay_ms": 60_000})
    held = [await dial(sim, asked) for _ in range(300)]
    await sim.wait_for(lambda: sim.in_flight == len(sim.bill) == 300)
    answers = await asyncio.gather(*(_answer(sim) for _ in range(700)))
    assert all(answer.whole for answer in answers)
    assert len(sim.bill) == 1000
    assert sim.total_nusd == 1000 * (5 * 1250 + 5 * 10_000)
    for sock in held:
        sock.close()


async def _answer(sim):
    return await hear(await dial(sim, question(stream=True, simulate={"words": 5, "pace_ms": 20})))


async def test_a_request_is_in_flight_before_its_body_has_come(sim):
    sock = await dial(sim, question(), sent=3)
    await sim.wait_for(lambda: sim.in_flight == 1)
    assert not sim.received
    sock.close()
    await sim.wait_for(lambda: sim.in_flight == 0)


async def test_waiting_for_what_never_comes_says_how_things_stand(sim):
    with pytest.raises(TimeoutError, match="0 in flight, 0 billed, 0 received"):
        await sim.wait_for(lambda: False, timeout_s=0.01)


def test_before_it_starts_there_is_no_address():
    with pytest.raises(RuntimeError, match="not been started"):
        _ = Simulator().url


async def test_prices_of_its_own_decide_models_and_cost():
    sim = Simulator(prices={"m": {"input": "1", "output": "2", "request": "0.5"}}, org_key=KEY)
    await sim.start()
    heard = await hear(await dial(sim, {**question(model="m"), "simulate": {"words": 10}}))
    assert heard.status == 200
    assert sim.total_nusd == 5 * 1000 + 10 * 2000 + 500_000_000
    assert (await hear(await dial(sim, question()))).status == 404
    await sim.stop()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


async def test_every_answer_is_known_by_the_hash_of_its_body_without_the_fault(sim, post, http, ask):
    stream = await ask(stream=True)
    refused = await post("/images/edits", {"model": "dall-e-3", "prompt": "x"})
    async with http.get("/v1/models") as answer:
        listed = await answer.read()
    assert list(sim.sent) == [
        ("/v1/chat/completions", 200, "text/event-stream", sha256(stream.body)),
        ("/v1/images/edits", 400, "application/json", sha256(refused.body)),
        ("/v1/models", 200, "application/json", sha256(listed)),
    ]
    await ask(stream=True, simulate={"fault": "status"})
    assert sim.sent[-1] == sim.sent[0]


async def test_files_are_known_by_the_hash_of_their_bytes_even_of_a_refused_request(sim, post):
    data = bytes(range(256)) * 100
    await post("/images/edits", {"model": "gpt-9", "prompt": "x"}, [("image[]", "a.png", data)])
    await post("/audio/transcriptions", {"model": "whisper-1", "file_base64": base64.b64encode(data).decode()})
    assert [(file.endpoint, file.part, file.filename, file.content_type) for file in sim.uploads] == [
        ("image_edits", "image[]", "a.png", "application/octet-stream"),
        ("transcriptions", "file_base64", None, None),
    ]
    assert {(file.size_bytes, file.sha256) for file in sim.uploads} == {(len(data), sha256(data))}


async def test_nothing_of_what_came_is_kept_if_nothing_is_to_be():
    sim = Simulator(org_key=KEY, received_kept=0)
    await sim.start()
    await hear(await dial(sim, question()))
    assert (list(sim.received), list(sim.received_paths), len(sim.bill)) == ([], [], 1)
    assert sim.sent.maxlen == sim.uploads.maxlen == 1000
    await sim.stop()


async def test_a_form_without_a_model_or_with_a_wrong_wish_is_a_400(post):
    files = [("image", "a.png", b"png")]
    assert "model" in (await post("/images/edits", {"prompt": "x"}, files)).error
    wishes = {"model": "dall-e-3", "prompt": "x", "simulate": {"imagez": 1}}
    assert "imagez" in (await post("/images/edits", wishes, files)).error


async def test_after_the_stop_no_job_ends():
    sim = Simulator(org_key=KEY, job_s=60)
    await sim.start()
    body = {"model": "veo-3", "prompt": "x", "simulate": {"job_s": 0.01}}
    await hear(await dial(sim, body, path="/v1/videos/generations"))
    await sim.stop()
    await asyncio.sleep(0.02)
    assert [job.status for job in sim.jobs.values()] == ["queued"]
    assert sim.bill == []
