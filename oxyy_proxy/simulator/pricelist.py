"""The default price list: every model that the examples of the documentation name, and a few more."""

from __future__ import annotations

from collections.abc import Mapping

PriceList = Mapping[str, Mapping[str, object]]
"""Model -> unit -> USD, as text, Decimal or int.

Per 1M tokens: input, cached_input, output, image_input, image_output, audio_input, audio_output. Per 1M characters:
character. Each: image, video_second, audio_minute, request. `image` and `video_second` may be a mapping of variants
(`quality:size`, size or resolution, quality) with a `default`. `endpoints` is no price but a list of the endpoints
the model serves, where its units do not tell.
"""

DEFAULT_PRICES: PriceList = {
    "gpt-5": {"input": "1.25", "cached_input": "0.125", "output": "10.00"},
    "gpt-5-mini": {"input": "0.25", "cached_input": "0.025", "output": "2.00"},
    "claude-opus-4.6": {"input": "15.00", "cached_input": "1.50", "output": "75.00"},
    "chatgpt-4o-latest": {"input": "5.00", "output": "15.00"},
    "text-embedding-3-large": {"input": "0.13"},
    "text-embedding-3-small": {"input": "0.02"},
    "gemini-embedding-001": {"input": "0.15"},
    "dall-e-3": {
        "image": {
            "default": "0.04", "1024x1792": "0.08", "1792x1024": "0.08",
            "hd:1024x1024": "0.08", "hd:1024x1792": "0.12", "hd:1792x1024": "0.12",
        },
    },
    "flux.1-pro": {"image": "0.05"},
    "flux.1-kontext-max": {"image": "0.08"},
    "gpt-image-1": {"input": "5.00", "image_input": "10.00", "image_output": "40.00"},
    "veo-3": {"video_second": {"default": "0.40", "1080p": "0.50"}},
    "veo-3.1-fast": {"video_second": "0.15"},
    "gpt-4o-mini-transcribe": {
        "input": "1.25", "audio_input": "3.00", "output": "5.00", "endpoints": ["transcriptions"],
    },
    "whisper-1": {"audio_minute": "0.006"},
    "scribe_v1": {"audio_minute": "0.0067"},
    "eleven_english_sts_v2": {"character": "120.00"},
    "eleven_v3": {"character": "100.00"},
    "tts-1-hd": {"character": "30.00"},
}  # fmt: skip
