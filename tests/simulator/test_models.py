import openai
import pytest


async def test_the_sdk_lists_the_models_of_the_price_list(client, sim):
    listed = [model.id async for model in client.models.list()]
    assert listed == list(sim.models)
    assert "gpt-5" in listed


async def test_one_model_can_be_asked_for_and_is_the_one_that_is_listed(client):
    model = await client.models.retrieve("claude-opus-4.6")
    assert (model.id, model.object, model.owned_by) == ("claude-opus-4.6", "model", "anthropic")
    assert model in [one async for one in client.models.list()]


@pytest.mark.parametrize(
    ("model", "owner"),
    [("gpt-5", "openai"), ("dall-e-3", "openai"), ("veo-3", "google"), ("flux.1-pro", "blackforest-ai")],
)
async def test_the_owner_is_guessed_by_the_name(client, model, owner):
    assert (await client.models.retrieve(model)).owned_by == owner


async def test_a_name_that_tells_no_owner_is_the_platforms_own(sim, client):
    sim.models["mystery"] = sim.models["gpt-5"]
    assert (await client.models.retrieve("mystery")).owned_by == "oxyy"


async def test_models_are_of_different_age_and_chat_models_have_a_context_window(client, sim):
    listed = [model async for model in client.models.list()]
    assert len({model.created for model in listed}) == len(listed)
    with_window = {model.id for model in listed if "context_window" in model.model_extra}
    assert with_window == {name for name, price in sim.models.items() if "chat" in price.endpoints}
    assert all(isinstance(model.context_window, int) for model in listed if model.id in with_window)


async def test_an_unknown_model_is_a_404(client, sim):
    with pytest.raises(openai.NotFoundError) as refused:
        await client.models.retrieve("gpt-9")
    assert refused.value.code == "model_not_found"
    assert sim.bill == []


async def test_the_list_can_be_made_to_fail_and_to_come_back(client, sim):
    sim.models_status = 503
    for refused in (client.models.list(), client.models.retrieve("gpt-5")):
        with pytest.raises(openai.InternalServerError) as failed:
            await refused
        assert failed.value.status_code == 503
    sim.models_status = None
    assert (await client.models.retrieve("gpt-5")).id == "gpt-5"
