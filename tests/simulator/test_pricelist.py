import pytest

from oxyy_proxy.simulator.pricelist import DEFAULT_PRICES
from oxyy_proxy.simulator.prices import read_prices

MODELS = read_prices(DEFAULT_PRICES)

NAMED = {
    "chat": ("gpt-5", "chatgpt-4o-latest", "claude-opus-4.6", "gpt-5-mini"),
    "images": ("dall-e-3", "flux.1-pro", "gpt-image-1"),
    "image_edits": ("flux.1-kontext-max",),
    "videos": ("veo-3", "veo-3.1-fast"),
    "transcriptions": ("gpt-4o-mini-transcribe", "whisper-1", "scribe_v1"),
    "speech": ("eleven_english_sts_v2", "tts-1-hd", "eleven_v3"),
    "embeddings": ("gemini-embedding-001", "text-embedding-3-large", "text-embedding-3-small"),
}


@pytest.mark.parametrize(("endpoint", "models"), NAMED.items())
def test_the_models_of_the_documentation_serve_their_endpoints(endpoint, models):
    assert [model for model in models if endpoint not in MODELS[model].endpoints] == []


def test_a_transcriber_does_not_chat():
    assert MODELS["gpt-4o-mini-transcribe"].endpoints == {"transcriptions"}
