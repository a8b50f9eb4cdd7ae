"""Request lines: methods, targets, versions; and what asks for another protocol."""

from __future__ import annotations

from tests.faults.corpus.case import BODY, HIDDEN_REQUEST, PATH, Case, accepted, get, head, post, refused

N = len(BODY)

_LENIENT = "RFC 9112, section 3, lets a recipient split the line at any white space"

_METHODS = {
    "in lower case": ("post", 400),
    "of no kind": ("FROBNICATE", 400),
    "CONNECT": ("CONNECT", 404),
    "PRI": ("PRI", 400),
    "with NUL": ("PO\x00ST", 400),
    "with a tab": ("POST\t", 400),
    "empty": ("", 400),
}

_LINES = {
    "a blank behind the version": f"POST {PATH} HTTP/1.1 ",
    "tabs instead of blanks": f"POST\t{PATH}\tHTTP/1.1",
    "a vertical tab before the version": f"POST {PATH}\x0bHTTP/1.1",
    "no version": f"POST {PATH}",
    "no target": "POST HTTP/1.1",
    "HTTP/0.9": f"POST {PATH} HTTP/0.9",
    "HTTP/1.2": f"POST {PATH} HTTP/1.2",
    "HTTP/1.10": f"POST {PATH} HTTP/1.10",
    "HTTP/01.1": f"POST {PATH} HTTP/01.1",
    "HTTP/2.0": f"POST {PATH} HTTP/2.0",
    "HTTP/3": f"POST {PATH} HTTP/3",
    "HTTP/": f"POST {PATH} HTTP/",
    "http/1.1": f"POST {PATH} http/1.1",
    "ICY": f"POST {PATH} ICY/1.1",
    "NUL in the path": f"POST {PATH}\x00 HTTP/1.1",
    "a raw byte above ASCII in the path": f"POST {PATH}\xe9 HTTP/1.1",
    "a bare CR in the path": f"POST {PATH}\rX HTTP/1.1",
    "a bare LF in the path": f"POST {PATH}\nX HTTP/1.1",
    "a blank in the path": f"POST {PATH} x HTTP/1.1",
    "DEL in the path": f"POST {PATH}\x7f HTTP/1.1",
    "a path of 64 KB": f"POST {PATH}?{'x' * 65_536} HTTP/1.1",
    "a relative path": f"POST {PATH[1:]} HTTP/1.1",
    "an asterisk": "POST * HTTP/1.1",
    "a scheme without a host": "POST http:///v1/models HTTP/1.1",
    "an authority": "POST proxy:80 HTTP/1.1",
}

_OTHER_PATHS = {
    "CRLF percent-encoded": f"{PATH}%0d%0aX-A:%20b",
    "NUL percent-encoded": f"{PATH}%00",
    "a slash behind": f"{PATH}/",
    "two slashes before": f"/{PATH}",
    "dots": f"/v1/../v1{PATH[3:]}",
    "dots percent-encoded": "/v1/%2e%2e/v1/chat/completions",
    "a semicolon": f"{PATH};x=y",
    "a backslash": "/v1\\chat\\completions",
    "capitals": PATH.upper(),
    "an upstream's other path": "/v1/organization/admin_api_keys",
}

LINES: tuple[Case, ...] = (
    *(
        refused(f"a method {name}", post(first=f"{method} {PATH} HTTP/1.1"), status)
        for name, (method, status) in _METHODS.items()
    ),
    *(refused(f"a request line with {name}", post(first=line)) for name, line in _LINES.items()),
    refused("a request line of 1 MB", post(first=f"POST {PATH}{'x' * 2**20} HTTP/1.1")),
    Case("HTTP/0.9, as it was", b"GET /v1/models\r\n", (), "waits"),
    refused("HTTP/0.9 with a blank line", b"GET /v1/models\r\n\r\n"),
    refused("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    refused("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 200),
    refused("a PROXY line", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n" + post()),
    refused("a binary PROXY line", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + post()),
    refused("an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    refused("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
)

METHODS: tuple[Case, ...] = (
    *(
        refused(f"{method} of a path that is posted to", post(first=f"{method} {PATH} HTTP/1.1"), 405, ends="open")
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "GET")
    ),
    Case("HEAD of the models", head(first="HEAD /v1/models HTTP/1.1"), (405,), "open", parsers=False),
    refused("OPTIONS of everything", head(first="OPTIONS * HTTP/1.1"), 404, ends="open"),
    refused("CONNECT of a host", head(first="CONNECT example.com:443 HTTP/1.1"), 404),
    refused("CONNECT with a request behind", head(first="CONNECT example.com:443 HTTP/1.1") + HIDDEN_REQUEST, 404),
)

TARGETS: tuple[Case, ...] = (
    accepted("two blanks before the target", post(first=f"POST  {PATH} HTTP/1.1"), BODY, why=_LENIENT),
    accepted("two blanks before the version", post(first=f"POST {PATH}  HTTP/1.1"), BODY, why=_LENIENT),
    accepted("RTSP", post(first=f"POST {PATH} RTSP/1.0"), BODY, ends="closed", why="the parser's; taken for HTTP/1.0"),
    accepted("a query", post(first=f"POST {PATH}?a=b&c HTTP/1.1"), BODY),
    accepted("a fragment", post(first=f"POST {PATH}#x HTTP/1.1"), BODY),
    accepted("an absolute target", post(first=f"POST http://proxy{PATH} HTTP/1.1"), BODY),
    accepted("an absolute target of another host", post(first=f"POST http://other.example{PATH} HTTP/1.1"), BODY),
    accepted("a path that is percent-encoded", post(first="POST /v1/%63hat/completions HTTP/1.1"), BODY),
    *(
        refused(f"a path with {name}", post(first=f"POST {path} HTTP/1.1"), 404, ends="open")
        for name, path in _OTHER_PATHS.items()
    ),
)

UPGRADES: tuple[Case, ...] = (
    Case("websocket", get("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"), (200,), "open"),
    Case(
        "h2c",
        get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        (200,),
        "open",
    ),
    accepted(
        "an upgrade with a body",
        post("Connection: Upgrade", "Upgrade: websocket"),
        BODY,
        why="httptools stops at the head; aiohttp reads the body first (RFC 9110, section 7.8)",
    ),
    Case(
        "an upgrade with a request behind",
        get("Connection: Upgrade", "Upgrade: websocket") + post(),
        (200, 200),
        "open",
        (BODY,),
        parsers=False,
        why="h11 waits for the switch; the proxy has declined it with its answer",
    ),
    Case(
        "an upgrade with what is no request behind",
        get("Connection: Upgrade", "Upgrade: websocket") + b"\x81\x05hello\r\n\r\n",
        (200, 400),
        "closed",
        parsers=False,
    ),
    Case("an upgrade to TLS", get("Connection: Upgrade", "Upgrade: TLS/1.2"), (200,), "open"),
)

EXPECTS: tuple[Case, ...] = (
    accepted("Expect: 100-continue with its body", head("Expect: 100-continue", f"Content-Length: {N}") + BODY, BODY),
    Case("Expect: 100-continue without a body", get("Expect: 100-continue"), (200,), "open"),
    refused(
        "Expect: 100-continue with a wrong key",
        head("Expect: 100-continue", f"Content-Length: {N}").replace(b"Bearer ", b"Bearer x"),
        401,
        ends="waits",
        why="without the body that it has not asked for",
    ),
    refused(
        "Expect: 100-continue with a wrong key, and a request instead of the body",
        head("Expect: 100-continue", f"Content-Length: {len(HIDDEN_REQUEST) + 1}").replace(b"Bearer ", b"Bearer x")
        + HIDDEN_REQUEST,
        401,
        ends="waits",
        why="what comes is dropped",
    ),
    Case("another expectation", head("Expect: 200-ok", f"Content-Length: {N}") + BODY, (200,), "open", (BODY,)),
)
