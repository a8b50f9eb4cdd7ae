"""POST /v1/images/generations and /v1/images/edits: whole JSON, priced by the images that came or by tokens."""

from __future__ import annotations

from dataclasses import replace

from oxyy_proxy.endpoints.base import Answer, Ask, Endpoint, count_of, read_object, tokens_of, utf8_size
from oxyy_proxy.endpoints.fields import Fields, FormFields, JsonFields, told_word
from oxyy_proxy.errors import InvalidValue, UpstreamBadResponse
from oxyy_proxy.rules.multipart import Form, Pieces
from oxyy_proxy.rules.price import held_tokens, likely_tokens
from oxyy_proxy.rules.types import Model, PartTokens, Usage

MAX_UPLOAD_BYTES = 20 * 1024 * 1024
"""Of the images in a form, together (the upstream's documentation, "File Size Limits")."""

MAX_IMAGES = 128
"""The most that `n` may be; upstreams make ten at most."""

DEFAULT_IMAGES = 1
"""What the upstream makes when the body does not say (its documentation, "Image Generation"); sent with every body."""

TOKENS_PER_IMAGE = 8192
"""Output tokens held for an image where the model has no `max_output_tokens`: gpt-image-1 takes 6,240 at most."""


MAX_MADE = 4096
"""Images in an answer; more are none. With the dearest price that a policy may set, a million USD, the cost fits 64
bits."""


class ImagesAsk(Ask):
    """A request for images. `n`, `size` and `quality` bound its cost and are checked; all else passes untouched."""

    __slots__ = ("_fields", "_images", "_pictures", "_quality", "_size", "_text_bytes", "content_type", "model", "urls")

    def __init__(self, fields: Fields, pictures: int = 0, urls: tuple[tuple[str, str], ...] = ()) -> None:
        """`pictures`: images that come with the request. Raises InvalidValue."""
        self._fields = fields
        self.content_type = fields.content_type
        self.model = fields.model
        self.urls = urls
        self._pictures = pictures
        self._images = fields.integer("n", least=1, most=MAX_IMAGES)
        self._size = fields.word("size")
        self._quality = fields.word("quality")
        self._text_bytes = utf8_size(fields.required("prompt"))
        if fields.flag("stream"):
            # Its answer could not be read, and would be paid for all the same.
            raise InvalidValue("Images are not streamed here. Leave 'stream' out.", param="stream")
        fields.forget()

    def worst(self, model: Model, parts: PartTokens) -> Usage:
        self._fields.require_room_for(model.name)
        images = self._images or DEFAULT_IMAGES
        tokens_in = tokens_out = 0
        if "input" in model.prices:
            tokens_in = held_tokens(self._text_bytes) + parts.image * self._pictures
            tokens_out = (model.max_output_tokens or TOKENS_PER_IMAGE) * images
        return Usage(
            input_tokens=tokens_in, output_tokens=tokens_out, images=images, quality=self._quality, size=self._size
        )

    def body_for(self, model: Model) -> bytes | Pieces:
        changes: dict[str, str | int] = {}
        if model.name != self.model:
            changes["model"] = model.name
        if self._images is None:
            changes["n"] = DEFAULT_IMAGES
        return self._fields.changed(changes)

    def read(self, body: bytes, model: Model, parts: PartTokens) -> Answer:
        answer = read_object(body)
        data = answer.get("data")
        usage = _usage_of(answer.get("usage")) if "input" in model.prices else None
        if not isinstance(data, list) or len(data) > MAX_MADE or not (data or usage):
            raise UpstreamBadResponse("The upstream's answer held no images. Retry.")
        if usage is None:
            usage = self._estimated(model, parts, len(data))
            if "image" in model.prices:
                usage = replace(usage, source="computed")
        quality, size = told_word(answer, "quality") or self._quality, told_word(answer, "size") or self._size
        return Answer(replace(usage, images=len(data), quality=quality, size=size))

    def likely_usage(self, model: Model, parts: PartTokens, output_bytes: int) -> Usage:
        return self._estimated(model, parts, MAX_MADE)

    def _estimated(self, model: Model, parts: PartTokens, made: int) -> Usage:
        """What so many images took, of those that were asked for: by the image where that has a price."""
        asked = self._images or DEFAULT_IMAGES
        usage = Usage(images=min(made, asked), quality=self._quality, size=self._size, source="estimated")
        if "image" in model.prices:
            return usage
        tokens_out = (model.max_output_tokens or TOKENS_PER_IMAGE) * usage.images
        return replace(
            usage,
            input_tokens=likely_tokens(self._text_bytes) + parts.image * self._pictures,
            output_tokens=tokens_out,
            image_output_tokens=tokens_out,
        )


def _usage_of(said: object) -> Usage | None:
    """The `usage` member of an answer of images, None where it does not say. What is made counts as image tokens."""
    usage = tokens_of(said)
    if usage is None or not isinstance(said, dict):
        return None
    details_in, details_out = said.get("input_tokens_details"), said.get("output_tokens_details")
    made = count_of(details_out, "image_tokens")
    return replace(
        usage,
        image_input_tokens=count_of(details_in, "image_tokens") or 0,
        image_output_tokens=usage.output_tokens if made is None else made,
    )


def parse(raw: bytes) -> ImagesAsk:
    """A body for images out of text. Raises InvalidJson or InvalidValue."""
    return ImagesAsk(JsonFields(raw))


def parse_edit(raw: bytes) -> ImagesAsk:
    """A JSON body for an edit: the image by URL or as base64. Raises InvalidJson or InvalidValue."""
    return _edit(JsonFields(raw))


def parse_edit_form(form: Form, content_type: str) -> ImagesAsk:
    """A form for an edit, with the images as files, as the SDKs send them. Raises InvalidValue."""
    return _edit(FormFields(form, content_type))


def _edit(fields: Fields) -> ImagesAsk:
    images, masks = fields.files("image"), fields.files("mask")
    image_urls, mask_urls = fields.addresses("image"), fields.addresses("mask")
    inline = bool(fields.text("image_base64"))
    if not images and not image_urls and not inline:
        raise InvalidValue(
            "There is no image to edit. Send 'image' as a file of a multipart form or as a URL, or 'image_base64'.",
            param="image",
        )
    urls = image_urls + mask_urls
    return ImagesAsk(fields, len(images) + len(masks) + len(urls) + inline, urls)


BASES = (frozenset({"image"}), frozenset({"input", "output"}), frozenset({"input", "image_output"}))

GENERATIONS = Endpoint(name="images", path="/images/generations", bases=BASES, parse=parse, after_ambiguous=1)

EDITS = Endpoint(
    name="image_edits",
    path="/images/edits",
    bases=BASES,
    parse=parse_edit,
    parse_form=parse_edit_form,
    max_form_bytes=MAX_UPLOAD_BYTES,
    after_ambiguous=1,
)
