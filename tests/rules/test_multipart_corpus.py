"""What another parser could read differently is refused; of what is accepted, others read the same model."""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import warnings
from unittest.mock import Mock

import aiohttp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oxyy_proxy.errors import InvalidValue, MalformedRequest, ProxyError
from oxyy_proxy.rules.multipart import MAX_HEADER_BYTES, MAX_PARTS, Form, FormReader

CONTENT_TYPE = "multipart/form-data; boundary=XbX"
MODEL = b'--XbX\r\nContent-Disposition: form-data; name="model"\r\n\r\ncheap\r\n'
FILE = (
    b'--XbX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: audio/mpeg\r\n\r\nID3\0\r\n'
)
END = b"--XbX--\r\n"
VALID = MODEL + FILE + b'--XbX\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n' + END


def read(body: bytes, content_type: str = CONTENT_TYPE, size: int | None = None) -> Form:
    reader = FormReader(content_type)
    for start in range(0, len(body), size or len(body) or 1):
        reader.feed(body[start : start + (size or len(body))])
    return reader.finish()


def part(headers: bytes, value: bytes = b"x") -> bytes:
    return b"--XbX\r\n" + headers + b"\r\n\r\n" + value + b"\r\n"


def disposed(parameters: str, more: bytes = b"", value: bytes = b"x") -> bytes:
    return MODEL + part(b"Content-Disposition: form-data; " + parameters.encode() + more, value) + END


N = b"Content-Disposition: form-data; name=n"
SMUGGLED = b'Content-Disposition: form-data; name="model"\r\n\r\ndear\r\n'
DEAR = b"--XbX\r\n" + SMUGGLED

MALFORMED = {
    # Framing (RFC 2046 section 5.1.1)
    "nothing": b"",
    "no part at all": END,
    "no closing delimiter": MODEL + FILE,
    "a body that ends within the closing delimiter": MODEL + b"--XbX-",
    "a body that ends after half a line end": MODEL + b"--XbX--\r",
    "a preamble": b"preamble\r\n" + MODEL + END,
    "a line end first": b"\r\n" + MODEL + END,
    "a preamble that looks like a part": b"--Xb\r\n" + SMUGGLED + MODEL + END,
    "an epilogue": MODEL + END + b"epilogue",
    "an epilogue without a line end": MODEL + b"--XbX--" + DEAR + END,
    "a second form after the first": MODEL + END + DEAR + END,
    "two line ends after the closing delimiter": MODEL + END + b"\r\n",
    "a bare line feed after the closing delimiter": MODEL + b"--XbX--\n",
    "padding after a boundary": MODEL + b"--XbX \r\n" + SMUGGLED + END,
    "a tab after the first boundary": b"--XbX\t\r\n" + SMUGGLED + END,
    "padding after the closing delimiter": MODEL + b"--XbX-- \r\n",
    "text after a boundary": MODEL + b"--XbXtra\r\n" + SMUGGLED + END,
    "one hyphen after a boundary": MODEL + b"--XbX-\r\n" + SMUGGLED + END,
    "a bare line feed after the first boundary": b"--XbX\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n" + END,
    "a bare line feed after a boundary": MODEL + b"--XbX\n" + SMUGGLED + END,
    "a bare carriage return after a boundary": MODEL + b"--XbX\r" + SMUGGLED + END,
    "a boundary after a bare line feed": MODEL + part(b'Content-Disposition: form-data; name="a"', b"\n" + DEAR) + END,
    "a boundary after a bare carriage return": MODEL + FILE[:-2] + b"\r" + DEAR + END,
    "a boundary at the start of a value": MODEL + part(b'Content-Disposition: form-data; name="a"', DEAR) + END,
    "a boundary within a line of a value": MODEL + FILE[:-2] + b"..--XbX.." + b"\r\n" + END,
    "a boundary within a header": disposed('name="file"; filename="--XbX"'),
    "line feeds alone": (MODEL + END).replace(b"\r\n", b"\n"),
    "another boundary": MODEL.replace(b"XbX", b"xbx") + END,
    # Headers of a part
    "no headers": b"--XbX\r\n\r\nx\r\n" + END,
    "headers without an end": b'--XbX\r\nContent-Disposition: form-data; name="a"\r\n' + END,
    "a folded header": disposed('name="a";\r\n filename="b"'),
    "a header that begins with a space": part(b' X: y\r\nContent-Disposition: form-data; name="a"') + END,
    "a bare line feed in a header": disposed('name="a"\nX-Y: z'),
    "a bare line feed that begins a header": disposed('name="a"\nContent-Disposition: form-data; name="model"'),
    "a bare carriage return in a header": disposed('name="a"\rX-Y: z'),
    "a NUL in a header": disposed('name="a"', b"\r\nX: \0"),
    "a Unicode line separator in a header": disposed('name="a"; filename="\u2028"'),
    "a line without a colon": disposed('name="a"', b"\r\nX"),
    "a space before the colon": part(b'Content-Disposition : form-data; name="a"') + END,
    "a space before the colon of any header": disposed('name="a"', b"\r\nX-Y : z"),
    "an empty header name": disposed('name="a"', b"\r\n: x"),
    "a header that is not UTF-8": part(b'Content-Disposition: form-data; name="\xff"') + END,
    "no Content-Disposition": MODEL + part(b"Content-Type: text/plain") + END,
    "two of Content-Disposition": disposed('name="a"', b'\r\ncontent-disposition: form-data; name="model"'),
    "two of Content-Type": disposed('name="a"', b"\r\nContent-Type: text/plain\r\nContent-type: text/html"),
    "another disposition": part(b'Content-Disposition: attachment; name="a"') + END,
    "long headers": disposed('name="a"', b"\r\nX: " + b"y" * MAX_HEADER_BYTES),
    "long headers in many lines": disposed('name="a"', b"".join(b"\r\nX%d: " % i + b"y" * 2000 for i in range(5))),
    "a wrong Content-Length": disposed('name="a"', b"\r\nContent-Length: 2"),
    "a Content-Length that is no number": disposed('name="a"', b"\r\nContent-Length: +1"),
    # Names (RFC 7578 section 4.2)
    "no name": part(b"Content-Disposition: form-data") + END,
    "a filename and no name": disposed('filename="a"'),
    "an empty name": disposed('name=""'),
    "a name without a quote at its end": disposed('name="a'),
    "a name twice": disposed('name="a"; name="model"'),
    "a name after the filename": disposed('filename="a"; name="b"'),
    "a filename twice": disposed('name="a"; filename="b"; filename="c"'),
    "another parameter": disposed('name="a"; x="; name=model"'),
    "a filename with a dotless i": disposed('name="a"; f\u0131lename="b"'),
    "an extended name": disposed("name*=utf-8''model"),
    "an extended name besides a name": disposed("name=\"a\"; name*=utf-8''model"),
    "a name in pieces": disposed('name*0="mod"; name*1="el"'),
    "an extended filename in another charset": disposed("name=a; filename*=utf-16''b"),
    "a tab between parameters": disposed('\tname="a"'),
    "a backslash in a name": disposed('name="mod\\el"'),
    "an escaped quote in a name": disposed('name="a\\"; filename=\\"b"'),
    "a control character in a name": disposed('name="a\x01b"'),
    "an invisible character in a name": disposed('name="mo\u200bdel"'),
    "a percent-encoded line end in a name": disposed('name="a%0d%0Ab"'),
    "a percent-encoded NUL in a name": disposed('name="model%00"'),
    "an encoded word as a name": disposed('name="=?utf-8?B?bW9kZWw=?="'),
    "an escaped quote in a filename": disposed('name="a"; filename="b\\"; name=\\"model"'),
    "a backslash at the end of a filename": disposed('name="a"; filename="b\\"'),
    "a filename that holds a parameter": disposed('name="a"; filename="b; name=model"'),
    # Content that is not as it stands
    "a part of parts": disposed('name="a"', b"\r\nContent-Type: multipart/mixed; boundary=z"),
    "a message as a part": disposed('name="a"; filename="b"', b"\r\nContent-Type: Message/RFC822"),
    "base64": disposed('name="a"', b"\r\nContent-Transfer-Encoding: base64"),
    "quoted-printable": disposed('name="a"', b"\r\nContent-Transfer-Encoding: Quoted-Printable"),
    "a compressed part": disposed('name="a"; filename="b"', b"\r\nContent-Encoding: gzip"),
    "text in UTF-16": disposed('name="a"', b"\r\nContent-Type: text/plain; charset=utf-16"),
    "text in two charsets": disposed('name="a"', b"\r\nContent-Type: text/plain; charset=utf-8; charset=utf-7"),
    "text of a malformed type": disposed('name="a"', b"\r\nContent-Type: text/plain charset=utf-16"),
    "another _charset_": disposed('name="_charset_"', value=b"utf-16"),
    "an empty _charset_": disposed('name="_charset_"', value=b""),
    "a _charset_ that is a file": disposed('name="_charset_"; filename="a"', value=b"utf-8"),
    "too many parts": MODEL + FILE * MAX_PARTS + END,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_two_parsers_could_read_differently_is_refused(case: str) -> None:
    for size in (None, 1, 5):
        with pytest.raises(MalformedRequest) as refusal:
            read(MALFORMED[case], size=size)
        assert refusal.value.message.startswith("The form cannot be read: ")


INVALID = {
    "two models": (MODEL + DEAR + END, "model"),
    "two models around a file": (MODEL + FILE + DEAR + END, "model"),
    "a model that is a file": (disposed('name="model"; filename="a"')[len(MODEL) :], "model"),
    "a model that is a file without a name": (disposed('name="model"; filename=""')[len(MODEL) :], "model"),
    "a model that is a file to some": (disposed("name=\"model\"; filename*=utf-8''a")[len(MODEL) :], "model"),
    "a model and a file called so": (disposed('name="model"; filename="a"'), "model"),
    "a model of bytes": (
        disposed('name="model"', b"\r\nContent-Type: application/octet-stream")[len(MODEL) :],
        "model",
    ),
    "a model in JSON": (disposed('name="model"', b"\r\nContent-Type: application/json")[len(MODEL) :], "model"),
    "Model": (disposed('name="Model"')[len(MODEL) :], "model"),
    "a model with a space": (disposed('name=" model"'), "model"),
    "a percent-encoded model": (disposed('name="mod%65l"'), "model"),
    "a model in full width": (disposed('name="\uff4d\uff4f\uff44\uff45\uff4c"'), "model"),
    "a list of models": (disposed('name="model[]"'), "model"),
    "a model by its index": (disposed('name="model[0]"; filename="a"'), "model"),
    "a text field twice": (MODEL + part(N) * 2 + END, "n"),
    "a text field twice but for case": (MODEL + part(N) + part(N.replace(b"=n", b"=N")) + END, "N"),
    "a text field twice but for a space": (MODEL + part(N) + part(N.replace(b"=n", b'=" n"')) + END, " n"),
    "a list that is text and then a file": (
        MODEL
        + part(b'Content-Disposition: form-data; name="a[]"')
        + part(N.replace(b"=n", b'="a[]"; filename=x'))
        + END,
        "a[]",
    ),
    "a field that is text and then a file": (MODEL + part(N) + part(N + b'; filename=""') + END, "n"),
    "a field that is a file and then text": (MODEL + FILE + disposed("name=file")[len(MODEL) :], "file"),
}


@pytest.mark.parametrize("case", INVALID)
def test_a_field_that_could_be_another_one_is_refused_by_name(case: str) -> None:
    body, param = INVALID[case]
    for size in (None, 1, 5):
        with pytest.raises(InvalidValue) as refusal:
            read(body, size=size)
        assert refusal.value.param == param


HARMLESS = {
    "no line end after the closing delimiter": MODEL + b"--XbX--",
    "unknown headers": disposed('name="a"', b"\r\nX-Y: z; name=model\r\nContent-ID: <1>"),
    "no space after the semicolon": MODEL.replace(b"; name", b";name") + END,
    "other case": MODEL.replace(b"Content-Disposition: form-data; name", b"content-disposition: Form-Data; NAME") + END,
    "a length": disposed('name="a"; filename="b"', b"\r\nContent-Length: 1"),
    "binary": disposed('name="a"', b"\r\nContent-Transfer-Encoding: Binary\r\nContent-Encoding: identity"),
    "text in Latin-1": disposed('name="a"', b'\r\nContent-Type: text/plain; charset="ISO-8859-1"'),
    "_charset_": disposed('name="_charset_"', value=b"UTF-8")[len(MODEL) : -len(END)] + MODEL + END,
    "both filenames": disposed('name="a"; filename="b"; filename*=UTF-8\'\'%C3%A9'),
    "a path as filename": disposed('name="a"; filename="C:\\music\\b.mp3"'),
    "many files of one name": MODEL + FILE * (MAX_PARTS - 1) + END,
    "a boundary that is spread over two values": MODEL + FILE[:-2] + b"--X\r\n" + part(N, b"bX") + END,
    "a list": MODEL + part(b'Content-Disposition: form-data; name="a[]"') * 3 + END,
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_every_parser_reads_alike_is_accepted(case: str) -> None:
    for size in (None, 1):
        assert read(HARMLESS[case], size=size).text("model") == "cheap"


@pytest.mark.parametrize(
    ("parameters", "boundary"),
    [
        ("; boundary=a", "a"),
        (';boundary="a"', "a"),
        ("; Boundary=aBc; charset=UTF-8", "aBc"),
        (' ; charset="utf-8" ;\tboundary="a b"', "a b"),
        ('; boundary="\'()+_,-./:=?0"', "'()+_,-./:=?0"),
        ("; boundary=" + "a" * 70, "a" * 70),
    ],
)
def test_a_proper_boundary_is_taken_as_it_stands(parameters: str, boundary: str) -> None:
    body = (MODEL + END).replace(b"XbX", boundary.encode())
    assert read(body, "multipart/form-data" + parameters).boundary == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "a" * 71,
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=a; Boundary=a",
        "multipart/form-data; boundary*=utf-8''a",
        "multipart/form-data; boundary*0=a",
        "multipart/form-data; boundary=a; boundary*=b",
        'multipart/form-data; x="; boundary=b"; boundary=a',
        'multipart/form-data; charset="; boundary=b"; boundary=a',
        "multipart/form-data; boundary=a; charset=utf-16",
        "multipart/form-data; boundary=a/b",
        "multipart/form-data; boundary=a b",
        "multipart/form-data; boundary = a",
        "multipart/form-data; boundary=a,b",
        "multipart/form-data; boundary=a;",
        'multipart/form-data; boundary="a',
        'multipart/form-data; boundary="a\\b"',
        'multipart/form-data; boundary="a "',
        'multipart/form-data; boundary=" a"',
        'multipart/form-data; boundary="a@b"',
        'multipart/form-data; boundary="a\r\nb"',
        'multipart/form-data; boundary="é"',
        "multipart/form-data; boundary=----",
        "multipart/form-data, multipart/form-data; boundary=a",
        "mult\u0131part/form-data; boundary=a",
        "multipart/mixed; boundary=a",
        "application/json",
    ],
)
def test_a_doubtful_boundary_is_refused_before_the_body(content_type: str) -> None:
    with pytest.raises(MalformedRequest):
        FormReader(content_type)


@pytest.mark.parametrize("body", [MODEL + b"--XbX \r\n", b"preamble", MODEL + DEAR, MODEL + END + b"x"])
def test_a_refused_form_stays_refused(body: bytes) -> None:
    reader = FormReader(CONTENT_TYPE)
    refusals = []
    for act in (lambda: reader.feed(body), lambda: reader.feed(MODEL + END), reader.finish):
        with pytest.raises(ProxyError) as refusal:
            act()
        refusals.append(refusal.value)
    assert refusals == refusals[:1] * 3


def test_a_refusal_comes_with_the_piece_that_earned_it() -> None:
    reader = FormReader(CONTENT_TYPE)
    reader.feed(MODEL)
    reader.feed(FILE)
    with pytest.raises(InvalidValue):
        reader.feed(b'--XbX\r\nContent-Disposition: form-data; name="model"\r\n\r\n')


@pytest.mark.parametrize("size", [None, 1, 1000])
def test_the_headers_of_a_part_are_read_up_to_the_limit(size: int | None) -> None:
    more = b"\r\nX: " + b"y" * 5000 + b"\r\nY: "
    fill = MAX_HEADER_BYTES - len(N + more)
    form = read(MODEL + part(N + more + b"z" * fill) + END, size=size)
    assert form.text("n") == "x"
    with pytest.raises(MalformedRequest):
        read(MODEL + part(N + more + b"z" * (fill + 1)) + END, size=size)


def test_headers_that_do_not_end_are_not_collected() -> None:
    reader = FormReader(CONTENT_TYPE)
    reader.feed(b"--XbX\r\n" + N)
    reader.feed(b"\r\nA: " + b"y" * (MAX_HEADER_BYTES // 2))
    with pytest.raises(MalformedRequest):
        reader.feed(b"\r\nB: " + b"y" * (MAX_HEADER_BYTES // 2))


def models_by_email(body: bytes) -> list[bytes]:
    """What the standard library's parser takes for `model`."""
    raw = f"Content-Type: {CONTENT_TYPE}\r\n\r\n".encode() + body
    message = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(raw)
    parts = message.get_payload() if message.is_multipart() else []
    named = [part for part in parts if part.get_param("name", header="content-disposition") == "model"]
    return [part.get_payload(decode=True) for part in named]


def models_by_aiohttp(body: bytes) -> list[bytes]:
    async def models() -> list[bytes]:
        stream = aiohttp.StreamReader(Mock(_reading_paused=False), 2**16, loop=asyncio.get_running_loop())
        stream.feed_data(body)
        stream.feed_eof()
        found = []
        async for part in aiohttp.MultipartReader({"Content-Type": CONTENT_TYPE}, stream):
            value = await part.read(decode=True)
            found += [bytes(value)] if part.name == "model" else []
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return asyncio.run(models())


@pytest.mark.parametrize("case", HARMLESS)
@pytest.mark.parametrize("models", [models_by_email, models_by_aiohttp])
def test_other_parsers_read_the_same_model(models, case: str) -> None:
    if (models, case) == (models_by_aiohttp, "_charset_"):
        return  # aiohttp 3.14 takes the delimiter after a _charset_ for a header, and refuses the form
    assert models(HARMLESS[case]) == [b"cheap"]


def require_agreement(body: bytes) -> None:
    """Refused in one of two ways, or other parsers read the same model in it."""
    try:
        form = read(body)
    except (MalformedRequest, InvalidValue):
        return
    expected = [part.value for part in form.parts if part.name == "model"]
    assert models_by_email(body) == expected


MUTATION = st.tuples(
    st.integers(0, len(VALID)),  # where
    st.integers(0, 3),  # how many bytes go
    st.one_of(
        st.binary(max_size=2),
        st.sampled_from(
            [b"\r\n", b"\n", b"\r", b" ", b'"', b"\\", b";", b"--XbX", b"--", b"=", b"%", b"name=", b"model"]
        ),
        st.sampled_from(
            [DEAR, SMUGGLED, FILE, END, b'; name="model"', b"\r\nContent-Type: text/plain; charset=utf-16"]
        ),
    ),
)


@settings(max_examples=3000, deadline=None)
@given(st.lists(MUTATION, min_size=1, max_size=3))
@example([(0, 0, b"")])
def test_no_mutation_of_a_form_lets_two_parsers_read_two_models(mutations) -> None:
    body = VALID
    for at, gone, new in mutations:
        body = body[:at] + new + body[at + gone :]
    require_agreement(body)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([MODEL, FILE, DEAR, END, b"\r\n", b"--XbX", b"--", SMUGGLED, b"x"]), max_size=8))
def test_no_jumble_of_pieces_lets_two_parsers_read_two_models(pieces) -> None:
    require_agreement(MODEL + b"".join(pieces) + END)
