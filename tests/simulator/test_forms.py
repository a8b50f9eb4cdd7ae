import os

import pytest

from oxyy_proxy.simulator import forms
from oxyy_proxy.simulator.errors import ApiError

TYPE = "multipart/form-data; boundary=x"


def part(name, data, more=""):
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + data + b"\r\n"


async def read(*parts, end=b"--x--\r\n"):
    return await forms.read(b"".join(parts) + end, TYPE)


@pytest.mark.parametrize(
    ("content_type", "form"),
    [(TYPE, True), (" Multipart/Form-Data;boundary=x", True), ("application/json", False), ("", False),
     ("multipart/mixed; boundary=x", False)],
)  # fmt: skip
def test_a_form_is_known_by_its_content_type(content_type, form):
    assert forms.is_form(content_type) is form


async def test_texts_have_the_values_that_json_would_have():
    form = await read(
        part("model", b"veo-3"),
        part("n", b"2"),
        part("duration", b"12"),
        part("stream", b"true"),
        part("size", b"1024"),
        part("simulate", b'{"images": 3}'),
        part("prompt", "grün".encode()),
        part("kinds[]", b"a"),
        part("kinds[]", b"b"),
    )
    assert form.fields == {
        "model": "veo-3",
        "n": 2,
        "duration": 12,
        "stream": True,
        "size": "1024",
        "simulate": {"images": 3},
        "prompt": "grün",
        "kinds": ["a", "b"],
    }
    assert form.files == ()


async def test_a_number_that_is_none_stays_a_text():
    assert (await read(part("n", b"two"), part("stream", b"maybe"))).fields == {"n": "two", "stream": "maybe"}


async def test_files_come_byte_for_byte_whatever_they_hold():
    data = os.urandom(100_000) + b"\r\n--y\r\n--\r\n" + os.urandom(5)
    typed = '; filename="ä.png"\r\nContent-Type: image/png'
    form = await read(part("image[]", data, typed), part("mask", b"", '; filename=""'))
    first, second = form.files
    assert (first.part, first.data, first.filename, first.content_type) == ("image[]", data, "ä.png", "image/png")
    assert (second.part, second.data, second.filename, second.content_type) == ("mask", b"", "", None)


@pytest.mark.parametrize(
    "body",
    [b"", b"--x\r\n", b"nothing at all", part("a", b"b") + b"--x\r\n", b"--x\r\n\r\nno name\r\n--x--\r\n",
     part("a", b"\xff") + b"--x--\r\n"],
)  # fmt: skip
async def test_a_body_that_is_no_form_is_a_400(body):
    with pytest.raises(ApiError) as refused:
        await forms.read(body, TYPE)
    assert (refused.value.status, refused.value.code) == (400, "invalid_multipart")


async def test_a_form_needs_a_boundary():
    with pytest.raises(ApiError, match="boundary"):
        await forms.read(b"", "multipart/form-data")


async def test_wishes_must_be_json():
    with pytest.raises(ApiError, match="'simulate' is not valid JSON"):
        await read(part("simulate", b"{"))
