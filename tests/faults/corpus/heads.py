"""Header lines: their ends, their names, their values, how many there are."""

from __future__ import annotations

from tests.faults.corpus.case import BODY, HIDDEN, HIDDEN_REQUEST, PATH, Case, accepted, get, head, post, refused
from tests.rig import KEY

N = len(BODY)

_EMPTY = "RFC 9112, section 2.2: empty lines before a request are ignored; h11 does not"

_IN_A_NAME = {
    "NUL": b"\x00", "a tab": b"\t", "a vertical tab": b"\x0b", "a blank": b" ", "DEL": b"\x7f", "a bare CR": b"\r",
    "a bare LF": b"\n", "a byte above ASCII": b"\xe9", "a parenthesis": b"(", "a slash": b"/", "a quote": b'"',
    "a comma": b",", "an at sign": b"@", "a brace": b"{",
}  # fmt: skip

_IN_A_VALUE = {
    "NUL": b"\x00", "a bell": b"\x07", "a vertical tab": b"\x0b", "a form feed": b"\x0c", "escape": b"\x1b",
    "DEL": b"\x7f", "a bare CR": b"\r", "a bare LF": b"\n",
}  # fmt: skip

LINES: tuple[Case, ...] = (
    refused("LF-only line ends", post().replace(b"\r\n", b"\n")),
    refused("a bare LF behind the request line", post().replace(b" HTTP/1.1\r\n", b" HTTP/1.1\n")),
    refused("a bare LF behind a header", post("X-A: b").replace(b"X-A: b\r\n", b"X-A: b\n")),
    refused("bare LFs at the end of the head", post().replace(b"\r\n\r\n", b"\n\n")),
    refused("a bare LF at the end of the head", post().replace(b"\r\n\r\n", b"\r\n\n")),
    refused("a bare CR behind a header", post("X-A: b").replace(b"X-A: b\r\n", b"X-A: b\r")),
    refused("two CRs behind a header", post("X-A: b").replace(b"X-A: b\r\n", b"X-A: b\r\r\n")),
    refused("a bare CR at the end of the head", post().replace(b"\r\n\r\n", b"\r\n\r")),
    refused("a folded header", post("X-A: b", " c")),
    refused("a header folded with a tab", post("X-A: b", "\tc")),
    refused("a header folded to nothing", post("X-A: b", " ")),
    refused("a folded first header", head(" X: y", f"Content-Length: {N}", host=False) + BODY),
    refused("a blank before the first header", post().replace(b"Host:", b" Host:")),
    refused("a folded Content-Length", head("Content-Length:", f" {N}") + BODY),
    refused("a folded Host", post().replace(b"Host: proxy", b"Host:\r\n proxy")),
    accepted("an empty line before the request", b"\r\n" + post(), BODY, why=_EMPTY),
    accepted("ten empty lines before the request", b"\r\n" * 10 + post(), BODY, why=_EMPTY),
    accepted("an empty line between requests", post() + b"\r\n" + post(), BODY, BODY, why=_EMPTY),
    accepted("a bare LF before the request", b"\n" + post(), BODY, why=_EMPTY),
    refused("a blank before the request", b" " + post()),
    refused("NUL before the request", b"\x00" + post()),
    refused("a byte-order mark", b"\xef\xbb\xbf" + post()),
)

NAMES: tuple[Case, ...] = (
    refused("a blank before the colon", post("X-A : b")),
    refused("a tab before the colon", post("X-A\t: b")),
    refused("a header without a colon", post("X-A")),
    refused("a header without a name", post(": b")),
    *(refused(f"{name} in a name", post(b"X-%bA: %b" % (odd, KEY.encode()))) for name, odd in _IN_A_NAME.items()),
    *(refused(f"{name} at the end of a name", post(b"X-A%b: b" % odd)) for name, odd in _IN_A_NAME.items()),
    refused("a name of 64 KB", post("x" * 65_536 + ": b")),
    accepted("a name of all that is allowed", post("!#$%&'*+-.^_`|~09azAZ: b"), BODY),
)

VALUES: tuple[Case, ...] = (
    *(
        refused(f"{name} in a value", post(b"X-A: %b%b%b" % (KEY.encode(), odd, KEY.encode())))
        for name, odd in _IN_A_VALUE.items()
    ),
    *(refused(f"{name} at the end of a value", post(b"X-A: b%b" % odd)) for name, odd in _IN_A_VALUE.items()),
    accepted("an empty value", post("X-A:"), BODY),
    accepted("a tab in a value", post("X-A: b\tc"), BODY),
    accepted("bytes above ASCII in a value", post(b"X-A: \xe9\xff"), BODY),
    refused("NUL in the key", post().replace(b"Bearer ", b"Bearer \x00")),
    refused("a bare LF and a header in the key", post().replace(KEY.encode(), KEY.encode() + b"\nX: y")),
    refused("a header smuggled into the User-Agent", post(b"User-Agent: a\nAuthorization: Bearer x")),
    refused("a header smuggled into the tag", post(b"x-oxyy-tag: a\rAuthorization: Bearer x")),
    Case("CRLF percent-encoded in a value", post("X-A: a%0d%0aX-B: c"), (200,), "open", (BODY,)),
)

SIZES: tuple[Case, ...] = (
    refused("headers of 64 KB", post(*(f"X-{n}: {'x' * 1000}" for n in range(64)), f"X: {'x' * 8200}")),
    refused("a header of 64 KB", post(f"X-A: {KEY}{'x' * 65_536}")),
    refused("a header of 1 MB", post(f"X-A: {KEY}{'x' * 2**20}")),
    refused("10,000 headers", post(*(f"X-{n}: {KEY}" for n in range(10_000)))),
    refused("10,000 times the same header", post(*(["X: y"] * 10_000))),
    accepted("100 headers of 100 bytes", post(*(f"X-{n}: {'x' * 100}" for n in range(100))), BODY),
    Case("a head without an end", head()[:-2], (), "waits"),
    Case("half a request line", b"POST /v1/ch", (), "waits"),
    accepted("a head that comes byte by byte", post("X-A: b"), BODY, pieces=1000),
)

HOSTS: tuple[Case, ...] = (
    refused("no Host", head(f"Content-Length: {N}", host=False) + BODY),
    refused("two Hosts", post("Host: other")),
    refused("two Hosts, the same", post("Host: proxy")),
    accepted("a Host with a port", post().replace(b"Host: proxy", b"Host: proxy:8080"), BODY),
    accepted("an empty Host", post().replace(b"Host: proxy", b"Host:"), BODY),
    accepted("a Host that is an IPv6 address", post().replace(b"Host: proxy", b"Host: [::1]:80"), BODY),
)

TWICE: tuple[Case, ...] = (
    accepted("two keys", post(f"Authorization: Bearer {KEY}"), BODY),
    accepted("two keys, the second wrong", post("Authorization: Bearer wrong"), BODY),
    refused("two keys, the first wrong", post(first=f"POST {PATH} HTTP/1.1\r\nAuthorization: x"), 401, ends="open"),
    refused("two Content-Types", post("Content-Type: application/json", "Content-Type: text/plain"), 400),
    accepted("two Content-Encodings", post("Content-Encoding: identity", "Content-Encoding: gzip"), BODY),
    Case(
        "two Expects", head("Expect: 100-continue", "Expect: x", f"Content-Length: {N}") + BODY, (200,), "open", (BODY,)
    ),
)

TOGETHER: tuple[Case, ...] = (
    accepted("two requests at once", post() + HIDDEN_REQUEST, BODY, HIDDEN),
    accepted("forty requests at once", post() * 40, *[BODY] * 40),
    refused("a good and a bad request", post() + post("X : y"), why="neither is handled: they came in one packet"),
    refused("a bad and a good request", post("X : y") + post()),
    refused("a request behind Connection: close", post("Connection: close") + HIDDEN_REQUEST),
    refused("a request behind HTTP/1.0", post(first=f"POST {PATH} HTTP/1.0") + HIDDEN_REQUEST),
    Case(
        "a request behind a refused encoding",
        post("Content-Encoding: gzip") + HIDDEN_REQUEST,
        (415,),
        "closed",
        parsers=False,
        why="what stands behind is not read",
    ),
    Case(
        "a request behind a wrong key",
        post().replace(KEY.encode(), b"wrong") + HIDDEN_REQUEST,
        (401, 200),
        "open",
        (HIDDEN,),
        parsers=False,
        why="its length is plain, so the next one is as well",
    ),
    Case("a GET and a POST", get() + post(), (200, 200), "open", (BODY,)),
)
