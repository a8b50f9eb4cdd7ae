import base64

import openai
import pytest

PNG = b"\x89PNG\r\n\x1a\n and more"
DALL_E = {"model": "dall-e-3", "prompt": "A sunset"}
FLUX = {"model": "flux.1-kontext-max", "prompt": "A beach"}


async def test_the_sdk_gets_urls_and_revised_prompts(client, sim):
    answer = await client.images.generate(**DALL_E, n=2, size="1024x1024")
    first, second = answer.data
    assert first.url.startswith("https://cdn.oxyy.ai/images/")
    assert first.url != second.url
    assert first.revised_prompt != second.revised_prompt
    assert (answer.created, answer.usage) == (1700000000, None)
    (entry,) = sim.bill
    assert (entry.endpoint, entry.images, entry.input_tokens, entry.cost_nusd) == ("images", 2, 0, 80_000_000)


async def test_a_request_without_a_number_gets_one_image(post):
    answer = (await post("/images/generations", DALL_E)).json
    assert list(answer) == ["created", "data"]
    (image,) = answer["data"]
    assert list(image) == ["url", "revised_prompt"]


async def test_base64_is_a_picture_of_its_own_for_each_index_and_the_same_each_time(client):
    answers = [await client.images.generate(**DALL_E, n=3, response_format="b64_json") for _ in range(2)]
    first, again = ([base64.b64decode(image.b64_json) for image in answer.data] for answer in answers)
    assert first == again
    assert len(set(first)) == 3
    assert all(data.startswith(b"\x89PNG") for data in first)
    assert {image.url for image in answers[0].data} == {None}


@pytest.mark.parametrize(
    ("more", "usd_cents"),
    [({"size": "1024x1792"}, 8), ({"quality": "hd", "size": "1024x1792"}, 12), ({"size": "auto"}, 4),
     ({"quality": "extra fine"}, 4), ({"n": None, "size": None, "quality": None}, 4)],
)  # fmt: skip
async def test_size_and_quality_choose_the_price_and_unknown_ones_are_accepted(post, sim, more, usd_cents):
    assert (await post("/images/generations", {**DALL_E, **more})).status == 200
    assert sim.total_nusd == usd_cents * 10_000_000


async def test_a_model_priced_by_tokens_reports_and_bills_them(post, sim):
    body = {"model": "gpt-image-1", "prompt": "A sunset of 22 letters", "n": 2}
    assert (await post("/images/generations", body)).json["usage"] == {
        "input_tokens": 5,
        "output_tokens": 2112,
        "total_tokens": 2117,
        "input_tokens_details": {"text_tokens": 5, "image_tokens": 0},
    }
    (entry,) = sim.bill
    assert (entry.input_tokens, entry.output_tokens, entry.images) == (5, 2112, 2)
    assert entry.cost_nusd == 5 * 5000 + 2112 * 40_000


@pytest.mark.parametrize("wished", [0, 1, 3])
async def test_fewer_or_more_images_than_asked_for_are_billed_as_they_are_returned(post, sim, wished):
    answer = (await post("/images/generations", {**DALL_E, "n": 2, "simulate": {"images": wished}})).json
    assert (len(answer["data"]), sim.bill[0].images) == (wished, wished)
    assert sim.total_nusd == wished * 40_000_000


async def test_keys_can_be_left_out(post):
    body = {"model": "gpt-image-1", "prompt": "x", "simulate": {"omit": ["usage", "created"]}}
    assert list((await post("/images/generations", body)).json) == ["data"]


@pytest.mark.parametrize(
    ("more", "names"),
    [({"n": 0}, "'n'"), ({"n": 129}, "'n' must be at most 128"), ({"n": "1"}, "'n'"), ({"prompt": ""}, "prompt"),
     ({"response_format": "jpg"}, "url or b64_json"), ({"size": 1024}, "'size'"), ({"quality": []}, "'quality'")],
)  # fmt: skip
async def test_images_that_cannot_be_are_a_400_and_not_billed(post, sim, more, names):
    assert names in (await post("/images/generations", {**DALL_E, **more})).error
    assert sim.bill == []


async def test_up_to_128_images_can_be_asked_for(post, sim):
    assert len((await post("/images/generations", {**DALL_E, "n": 128})).json["data"]) == 128


async def test_the_sdk_edits_an_uploaded_image(client, sim):
    answer = await client.images.edit(**FLUX, image=("source.png", PNG), n=2, size="1024x1024")
    assert [image.url.rpartition("/")[2][:7] for image in answer.data] == ["edited_"] * 2
    (entry,) = sim.bill
    assert (entry.endpoint, entry.images, entry.cost_nusd) == ("image_edits", 2, 160_000_000)
    assert [(file.part, file.filename) for file in sim.uploads] == [("image", "source.png")]


@pytest.mark.parametrize("part", ["image", "image[]"])
async def test_several_images_are_counted_and_a_mask_is_not(post, part):
    body = {"model": "gpt-image-1", "prompt": "abcdefgh"}
    files = [(part, "a.png", PNG), (part, "b.png", PNG), ("mask", "m.png", PNG)]
    usage = (await post("/images/edits", body, files)).json["usage"]
    assert usage["input_tokens_details"] == {"text_tokens": 2, "image_tokens": 1000}


@pytest.mark.parametrize(
    ("given", "images"),
    [
        ({"image": "https://example.com/a.png"}, 1),
        ({"image": ["https://example.com/a.png", "https://example.com/b.png"]}, 2),
        ({"image_base64": base64.b64encode(PNG).decode()}, 1),
        ({"image_base64": [base64.b64encode(PNG).decode()] * 3}, 3),
    ],
)
async def test_an_image_may_be_a_url_or_base64(post, sim, given, images):
    answer = await post("/images/edits", {"model": "gpt-image-1", "prompt": "x", **given})
    assert answer.json["usage"]["input_tokens"] == 1 + 500 * images
    assert sim.bill[0].cost_nusd == 5000 + 500 * images * 10_000 + 1056 * 40_000
    assert {file.size_bytes for file in sim.uploads} == ({len(PNG)} if "image_base64" in given else set())


@pytest.mark.parametrize("given", [{}, {"image": 5}, {"image": [""]}, {"image_base64": "%"}, {"image": []}])
async def test_an_edit_without_an_image_is_a_400_and_not_billed(post, sim, given):
    assert "image" in (await post("/images/edits", {**FLUX, **given})).error
    assert sim.bill == []


async def test_a_form_without_an_image_is_a_400(post):
    assert "'image'" in (await post("/images/edits", FLUX, [("mask", "m.png", PNG)])).error


async def test_the_same_form_gets_the_same_answer_though_its_boundary_differs(post):
    answers = [await post("/images/edits", {**FLUX, "n": 2}, [("image", "a.png", data)]) for data in (PNG, PNG, b"x")]
    first, again, other = (answer.body for answer in answers)
    assert first == again != other
    assert [list(image) for image in answers[0].json["data"]] == [["url"], ["url"]]


async def test_wishes_of_a_form_are_a_text_part(post, sim):
    answer = await post("/images/edits", {**FLUX, "simulate": {"images": 3}}, [("image", "a.png", PNG)])
    assert len(answer.json["data"]) == sim.bill[0].images == 3


async def test_a_chat_model_does_not_paint(client):
    with pytest.raises(openai.NotFoundError):
        await client.images.generate(model="gpt-5", prompt="x")
