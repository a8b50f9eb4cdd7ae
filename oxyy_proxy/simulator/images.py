"""POST /v1/images/generations and /v1/images/edits: pictures out of a hash."""

from __future__ import annotations

import base64

from . import png, tokens, words
from .answers import Answer, Usage, json_answer
from .asked import Asked, count, required, text
from .chat import CREATED
from .errors import ApiError

MOST_IMAGES = 128
TOKENS_PER_INPUT_IMAGE = 500
TOKENS_PER_IMAGE = 1056
"""Output tokens of one picture, whatever its size."""
REVISED_WORDS = 9


def generations(asked: Asked) -> Answer:
    """The answer to a request for images. Raises ApiError 400."""
    return _answer(asked, input_images=0, edited=False)


def edits(asked: Asked) -> Answer:
    """The answer to a request to edit images, which needs at least one. Raises ApiError 400."""
    given = input_images(asked)
    if not given:
        raise ApiError(400, "One of 'image' (file or URL) or 'image_base64' is required", "missing_required_parameter")
    return _answer(asked, given, edited=True)


def input_images(asked: Asked) -> int:
    """How many images came with the request, as files, URLs or base64; masks are not counted. Raises ApiError 400."""
    value = asked.body.get("image")
    urls = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(url, str) and url for url in urls):
        raise ApiError(400, "'image' must be a URL, or an array of URLs")
    return len(urls) + sum(file.role == "image" for file in asked.files)


def _answer(asked: Asked, input_images: int, edited: bool) -> Answer:
    body = asked.body
    prompt = required(body, "prompt")
    wanted = count(body, "n", least=1) or 1
    if wanted > MOST_IMAGES:
        raise ApiError(400, f"'n' must be at most {MOST_IMAGES}")
    images = wanted if asked.wishes.images is None else asked.wishes.images
    spelled = text(body, "response_format") or "url"
    if spelled not in ("url", "b64_json"):
        raise ApiError(400, "'response_format' must be url or b64_json")
    data = [_picture(asked.seed, index, spelled, edited) for index in range(images)]
    usage = _usage(asked, prompt, images, input_images)
    report = _report(usage) if asked.by_tokens else None
    return json_answer({"created": CREATED, "data": data}, usage, report, asked.wishes.omit)


def _picture(seed: bytes, index: int, spelled: str, edited: bool) -> dict[str, str]:
    """One of the pictures; an edited one has no `revised_prompt`, as in the documentation."""
    own = words.derive(seed, f"image {index}")
    if spelled == "b64_json":
        entry = {"b64_json": base64.b64encode(png.picture(own)).decode()}
    else:
        name = f"{'edited_' if edited else ''}{own.hex()[:12]}.png"
        entry = {"url": f"https://cdn.oxyy.ai/images/2025/01/{name}"}
    if not edited:
        entry["revised_prompt"] = "".join(words.sentence(own, REVISED_WORDS))
    return entry


def _usage(asked: Asked, prompt: str, images: int, input_images: int) -> Usage:
    priced = {"images": images, "size": text(asked.body, "size"), "quality": text(asked.body, "quality")}
    if not asked.by_tokens:
        return Usage(**priced)  # type: ignore[arg-type]  # the values differ in type
    image_tokens = TOKENS_PER_INPUT_IMAGE * input_images
    output_tokens = TOKENS_PER_IMAGE * images
    return Usage(
        max(1, tokens.of_text(prompt)) + image_tokens,
        output_tokens,
        image_input_tokens=image_tokens,
        image_output_tokens=output_tokens,
        **priced,  # type: ignore[arg-type]
    )


def _report(usage: Usage) -> dict[str, object]:
    image_tokens = usage.image_input_tokens
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens_details": {"text_tokens": usage.input_tokens - image_tokens, "image_tokens": image_tokens},
    }
