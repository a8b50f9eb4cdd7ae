import openai
import pytest


async def test_the_sdk_lists_the_models_of_the_price_list(client, sim):
    listed = [model.id async for model in client.models.list()]
    assert listed == list(sim.models)
    assert "gpt-5" in listed


async def test_one_model_can_be_asked_for(client):
    model = await client.models.retrieve("claude-opus-4.6")
    assert (model.id, model.object, model.owned_by) == ("claude-opus-4.6", "model", "oxyy")


async def test_an_unknown_model_is_a_404(client, sim):
    with pytest.raises(openai.NotFoundError) as refused:
        await client.models.retrieve("gpt-9")
    assert refused.value.code == "model_not_found"
    assert sim.bill == []
