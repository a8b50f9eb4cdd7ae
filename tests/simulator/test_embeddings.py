import math

import openai
import pytest

MODEL = "gemini-embedding-001"


async def test_the_sdk_reads_base64_and_floats_as_the_same_unit_vector(client):
    packed = await client.embeddings.create(model=MODEL, input="hello")
    floats = await client.embeddings.create(model=MODEL, input="hello", encoding_format="float")
    vector = packed.data[0].embedding
    assert list(vector) == floats.data[0].embedding
    assert len(vector) == 8
    assert math.isclose(sum(x * x for x in vector), 1, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("value", "vectors", "tokens"),
    [
        ("a text of 20 letters", 1, 5),
        (["abcdefgh", "x"], 2, 3),
        ([5, 6, 7], 1, 3),
        ([[1, 2], [3], [4, 5, 6]], 3, 6),
    ],
)
async def test_every_form_of_input_is_counted(client, sim, value, vectors, tokens):
    answer = await client.embeddings.create(model=MODEL, input=value)
    assert [one.index for one in answer.data] == list(range(vectors))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    entry = sim.bill[0]
    assert (entry.endpoint, entry.input_tokens, entry.output_tokens) == ("embeddings", tokens, 0)
    assert entry.cost_nusd == tokens * 150  # 0.15 USD per million


async def test_large_models_have_3072_dimensions_unless_told_otherwise(client):
    large = await client.embeddings.create(model="text-embedding-3-large", input="x")
    short = await client.embeddings.create(model="text-embedding-3-large", input="x", dimensions=256)
    assert (len(large.data[0].embedding), len(short.data[0].embedding)) == (3072, 256)


async def test_different_texts_have_different_vectors(client):
    answer = await client.embeddings.create(model=MODEL, input=["one", "two", "one"])
    first, second, third = (one.embedding for one in answer.data)
    assert first == third != second


@pytest.mark.parametrize(
    "bad", [{"input": ""}, {"input": []}, {"input": [1, "a"]}, {"input": [[]]}, {"encoding_format": "hex"},
            {"dimensions": 0}, {"dimensions": 99999}]
)  # fmt: skip
async def test_input_that_cannot_be_embedded_is_a_400_and_not_billed(client, sim, bad):
    with pytest.raises(openai.BadRequestError):
        await client.embeddings.create(**{"model": MODEL, "input": "x", **bad})
    assert sim.bill == []


async def test_a_chat_model_does_not_embed(client):
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="gpt-5", input="x")
