"""Where a body ends: what two parsers may see in different places must be refused (RFC 9112, section 6)."""

from __future__ import annotations

from tests.faults.corpus.case import (
    BODY,
    HIDDEN_REQUEST,
    Case,
    accepted,
    chunked,
    chunks,
    get,
    head,
    post,
    refused,
)

N = len(BODY)

_LINGERS = "what comes is read for a while and dropped, so that the answer is not lost"
_LAST = "a chunked request is the last of its connection: aiohttp would give its trailers to the next one"
_ONE_PACKET = "aiohttp reads a packet whole before the first request in it is handled"

_LENGTHS = {
    "with a plus": f"+{N}",
    "negative": f"-{N}",
    "minus zero": "-0",
    "hexadecimal": f"0x{N:x}",
    "with an underscore": f"{N // 10}_{N % 10}",
    "with a point": f"{N}.0",
    "with an exponent": "1e2",
    "two numbers": f"{N} {N}",
    "a list of equal ones": f"{N}, {N}",
    "a list of others": f"{N}, 0",
    "a list that begins empty": f",{N}",
    "a list that ends empty": f"{N},",
    "empty": "",
    "not a number": "abc",
    "quoted": f'"{N}"',
    "with a semicolon": f"{N};",
    "with a letter behind": f"{N}a",
    "2**64 + the length": str(2**64 + N),
    "2**64": str(2**64),
    "a thousand digits": "9" * 1000,
}

_CODINGS = {
    "identity": "identity",
    "identity, chunked": "identity, chunked",
    "chunked, identity": "chunked, identity",
    "chunked, chunked": "chunked, chunked",
    "gzip, chunked": "gzip, chunked",
    "gzip": "gzip",
    "xchunked": "xchunked",
    "chunkedx": "chunkedx",
    "chunked;q=1": "chunked;q=1",
    "quoted": '"chunked"',
    "with a comma behind": "chunked,",
    "with a comma before": ",chunked",
    "with a vertical tab": "\x0bchunked",
    "with a form feed": "\x0cchunked",
    "with a vertical tab behind": "chunked\x0b",
    "with NUL behind": "chunked\x00",
    "with a byte above ASCII": "\xa0chunked",
    "a Kelvin sign": "chun\u212aed".encode().decode("latin-1"),
    "empty": "",
    "two words": "chunked chunked",
    "trailers": "trailers",
}

_SIZES = {
    "0x": b"0x%x" % N,
    "negative": b"-1",
    "with a plus": b"+%x" % N,
    "with a blank before": b" %x" % N,
    "with a blank behind": b"%x " % N,
    "with a tab behind": b"%x\t" % N,
    "with an underscore": b"%x_0" % (N // 16),
    "with a point": b"%x.0" % N,
    "of 17 digits": b"1%016x" % N,
    "empty": b"",
    "not hexadecimal": b"zz",
    "with NUL": b"%x\x00" % N,
    "in UTF-16": b"5\x003\x00",
}

LENGTHS: tuple[Case, ...] = (
    accepted("a Content-Length", post(), BODY),
    accepted("a Content-Length with leading zeros", head(f"Content-Length: 000{N}") + BODY, BODY),
    accepted("a Content-Length between blanks", head(f"Content-Length: \t {N} \t ") + BODY, BODY),
    accepted("a Content-Length without a blank", head(f"Content-Length:{N}") + BODY, BODY),
    accepted("a Content-Length in other letters", head(f"cOnTeNt-LeNgTh: {N}") + BODY, BODY),
    *(
        refused(f"a Content-Length, {name}", head(f"Content-Length: {value}") + BODY)
        for name, value in _LENGTHS.items()
    ),
    refused("a Content-Length with a vertical tab", head(f"Content-Length: \x0b{N}") + BODY),
    refused("a Content-Length with NUL", head(f"Content-Length: {N}\x00") + BODY),
    refused("two Content-Lengths, the same", head(f"Content-Length: {N}", f"Content-Length: {N}") + BODY),
    refused("two Content-Lengths, the second shorter", head(f"Content-Length: {N}", "Content-Length: 0") + BODY),
    refused("two Content-Lengths, the first shorter", head("Content-Length: 0", f"Content-Length: {N}") + BODY),
    refused("Content_Length", head(f"Content_Length: {N}") + b"", 400, ends="open", why="no body: not the header"),
    refused("a Content-Length of 1 GB", head(f"Content-Length: {2**30}"), 413, ends="waits", why=_LINGERS),
    refused("a Content-Length of 2**63", head(f"Content-Length: {2**63}") + BODY, 413, ends="waits", why=_LINGERS),
    refused("a Content-Length of 2**64 - 1", head(f"Content-Length: {2**64 - 1}") + BODY, 413),
    refused("a body that is missing", head(), 400, ends="open", why="a POST without a length has no body"),
    refused("a body without a length", head() + BODY, 400, why="an empty body, and then what is no request"),
    Case("a body that is too short", post()[:-1], (), "waits for a body"),
    refused("a body that is too long", post() + b"}", why=_ONE_PACKET),
    Case(
        "a body that ends early, a request behind it",
        head(f"Content-Length: {N + len(HIDDEN_REQUEST)}") + BODY + HIDDEN_REQUEST,
        (400,),
        "open",
        parsers=False,
        why="all of it is the body, which is no JSON",
    ),
    Case("a GET with a body", get("Content-Length: 2") + b"{}", (200,), "open"),
    Case(
        "a GET with a request as its body",
        get(f"Content-Length: {len(HIDDEN_REQUEST)}") + HIDDEN_REQUEST,
        (200,),
        "open",
    ),
    Case("a GET with chunks", get("Transfer-Encoding: chunked") + chunks(HIDDEN_REQUEST), (200,), "closed"),
    refused("a GET with a length and chunks", get("Content-Length: 5", "Transfer-Encoding: chunked") + chunks(BODY)),
)

CODINGS: tuple[Case, ...] = (
    accepted("chunks", chunked(), BODY, ends="closed"),
    accepted("chunks in other letters", chunked(name="tRANSFER-eNCODING: ChUnKeD"), BODY, ends="closed"),
    accepted("chunks behind blanks", chunked(name="Transfer-Encoding: \t chunked"), BODY, ends="closed"),
    refused("chunks before a tab", chunked(name="Transfer-Encoding: chunked\t"), why="legal, and nobody sends it"),
    accepted("chunks, one byte each", chunked(body=chunks(*(BODY[n : n + 1] for n in range(N)))), BODY, ends="closed"),
    accepted("chunks that come byte by byte", chunked(body=chunks(BODY[:7], BODY[7:])), BODY, ends="closed", pieces=40),
    *(
        refused(f"Transfer-Encoding: {name}", chunked(name=f"Transfer-Encoding: {value}"))
        for name, value in _CODINGS.items()
    ),
    refused("CL.TE", head(f"Content-Length: {N}", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN_REQUEST),
    refused("TE.CL", head("Transfer-Encoding: chunked", "Content-Length: 4") + chunks(HIDDEN_REQUEST)),
    refused("CL.TE of length 0", head("Content-Length: 0", "Transfer-Encoding: chunked") + chunks(BODY)),
    refused("TE.TE, twice chunked", chunked("Transfer-Encoding: chunked")),
    refused("TE.TE, chunked and identity", chunked("Transfer-Encoding: identity")),
    refused("TE.TE, chunked and x", chunked("Transfer-Encoding: x")),
    refused("TE.TE, x and chunked", head("Transfer-Encoding: chunked", "Transfer-Encoding: x") + chunks(BODY)),
    refused("TE.TE, a blank before the colon", chunked(f"Content-Length: {N}", name="Transfer-Encoding : chunked")),
    refused("TE.TE, a tab before the colon", chunked(f"Content-Length: {N}", name="Transfer-Encoding\t: chunked")),
    refused("TE.TE, a folded line", chunked(f"Content-Length: {N}", name="Transfer-Encoding:\r\n chunked")),
    refused("TE.TE, a blank before the name", chunked(f"Content-Length: {N}", name=" Transfer-Encoding: chunked")),
    refused("TE.TE, behind a bare LF", chunked(f"Content-Length: {N}", name="X: x\nTransfer-Encoding: chunked")),
    refused("TE.TE, behind a bare CR", chunked(f"Content-Length: {N}", name="X: x\rTransfer-Encoding: chunked")),
    refused("TE.TE, with NUL in its name", chunked(f"Content-Length: {N}", name="Transfer\x00-Encoding: chunked")),
    Case(
        "Transfer_Encoding",
        head(f"Content-Length: {N}", "Transfer_Encoding: chunked") + BODY,
        (200,),
        "open",
        (BODY,),
        why="a header of another name, and it does not go upstream",
    ),
    Case(
        "Connection: close, transfer-encoding",
        head("Connection: close, transfer-encoding", "Transfer-Encoding: chunked") + chunks(BODY),
        (200,),
        "closed",
        (BODY,),
    ),
    Case(
        "Connection: content-length",
        head("Connection: content-length", f"Content-Length: {N}") + BODY,
        (200,),
        "open",
        (BODY,),
    ),
    refused(
        "chunks in HTTP/1.0",
        head("Transfer-Encoding: chunked", first="POST /v1/chat/completions HTTP/1.0") + chunks(BODY),
    ),
)

CHUNKS: tuple[Case, ...] = (
    *(
        refused(f"a chunk size {name}", chunked(body=size + b"\r\n" + BODY + b"\r\n0\r\n\r\n"))
        for name, size in _SIZES.items()
    ),
    accepted(
        "a chunk size with leading zeros", chunked(body=b"%08x\r\n" % N + BODY + b"\r\n0\r\n\r\n"), BODY, ends="closed"
    ),
    accepted("a chunk size in capitals", chunked(body=b"%X\r\n" % N + BODY + b"\r\n0\r\n\r\n"), BODY, ends="closed"),
    accepted("a chunk extension", chunked(body=b"%x;a=b\r\n" % N + BODY + b"\r\n0\r\n\r\n"), BODY, ends="closed"),
    accepted(
        "a chunk extension in quotes",
        chunked(body=b'%x;a="b;c"\r\n' % N + BODY + b"\r\n0\r\n\r\n"),
        BODY,
        ends="closed",
    ),
    refused("a chunk extension with a bare LF", chunked(body=b"%x;a=b\nc\r\n" % N + BODY + b"\r\n0\r\n\r\n")),
    refused("a chunk extension with a bare CR", chunked(body=b"%x;a=b\rc\r\n" % N + BODY + b"\r\n0\r\n\r\n")),
    refused("a chunk extension with NUL", chunked(body=b"%x;a=\x00\r\n" % N + BODY + b"\r\n0\r\n\r\n")),
    accepted(
        "a chunk extension of 64 KB",
        chunked(body=b"%x;a=" % N + b"b" * 65_536 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
        BODY,
        ends="closed",
        why="h11 bounds its buffer; here it is dropped as it comes",
    ),
    Case("a chunk size of all ones", chunked(body=b"f" * 16 + b"\r\n" + BODY), (), "waits for a body"),
    refused("a bare LF behind a chunk size", chunked(body=b"%x\n" % N + BODY + b"\r\n0\r\n\r\n")),
    refused("a bare CR behind a chunk size", chunked(body=b"%x\r" % N + BODY + b"\r\n0\r\n\r\n")),
    refused("a bare LF behind a chunk", chunked(body=b"%x\r\n" % N + BODY + b"\n0\r\n\r\n")),
    refused("a chunk longer than its size", chunked(body=b"%x\r\n" % (N - 1) + BODY + b"\r\n0\r\n\r\n")),
    refused("a chunk shorter than its size", chunked(body=b"%x\r\n" % (N + 2) + BODY + b"\r\n0\r\n\r\n")),
    refused("a bare LF behind the last chunk", chunked(body=chunks(BODY, last=b"0\n\n"))),
    accepted(
        "a last chunk of many zeros",
        chunked(body=chunks(BODY, last=b"0" * 21 + b"\r\n\r\n")),
        BODY,
        ends="closed",
        why="h11 takes 20",
    ),
    Case("chunks without a last one", chunked(body=chunks(BODY, last=b"")), (), "waits for a body"),
    Case("a last chunk without its blank line", chunked(body=chunks(BODY, last=b"0\r\n")), (), "waits for a body"),
    refused("chunks of nothing", chunked(body=chunks()), why="an empty body is no JSON"),
    accepted("trailers", chunked(body=chunks(BODY, last=b"0\r\nX: y\r\n\r\n")), BODY, ends="closed"),
    refused("a Content-Length as trailer", chunked(body=chunks(BODY, last=b"0\r\nContent-Length: 5\r\n\r\n"))),
    accepted(
        "a key as trailer",
        chunked(body=chunks(BODY, last=b"0\r\nAuthorization: Bearer x\r\n\r\n")),
        BODY,
        ends="closed",
    ),
    Case(
        "a key as trailer, and a request behind",
        chunked(body=chunks(BODY, last=b"0\r\nAuthorization: Bearer x\r\n\r\n")) + HIDDEN_REQUEST,
        (200,),
        "closed",
        (BODY,),
        parsers=False,
        why=_LAST,
    ),
    refused("a trailer with a blank before its colon", chunked(body=chunks(BODY, last=b"0\r\nX : y\r\n\r\n"))),
    Case(
        "a request behind the last chunk",
        chunked() + HIDDEN_REQUEST,
        (200,),
        "closed",
        (BODY,),
        parsers=False,
        why=_LAST,
    ),
    refused("more behind the last chunk", chunked(body=chunks(BODY, last=b"0\r\nGET / HTTP/1.1\r\n\r\n"))),
)
