"""URLs in request bodies, which the upstream will fetch: public http(s) hosts only, decided without DNS.

Two parsers seldom agree on an odd URL, and ours is not the one that fetches. So this does not try to read every
spelling of an address as its fetcher might: an IP address is accepted in its one plain spelling, anything else that
some parser could take for an address, or for another host, is refused. What a public *name* resolves to
(`127.0.0.1.nip.io`, rebinding, redirects) is for the fetcher to check.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from oxyy_proxy.errors import InvalidValue

MAX_URL_CHARS = 8192
"""Longer than servers and CDNs take in a request line (8 KB), so no real one is lost."""

_MAX_HOST_CHARS, _MAX_LABEL_CHARS = 253, 63
"""RFC 1035 2.3.4, as text. A name in Unicode is longer still once it is encoded."""

_ODD = re.compile(r"[\s\x00-\x20\x7f-\x9f\\\ud800-\udfff]")
"""Blanks and controls, which URL parsers drop or cut at (WHATWG URL 4.4 removes tab and newline anywhere), the
backslash, which is a slash to some (4.4, special schemes), and surrogates, which no UTF-8 carries."""

_SHAPE = re.compile(r"https?://(?P<authority>[^/?#]+)(?P<rest>.*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]+)(?::(?P<port>[1-9][0-9]{0,4})?)?")
_PLAIN_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?!$)|$)){4}")
_PLAIN_IPV6 = re.compile(r"[0-9A-Fa-f:.]+")

_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt: IDNA maps these to nothing (UTS 46, 4)."""

_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_NAME_CATEGORIES = ("L", "M", "N", "So", "Sk")
_NAME_PUNCTUATION = frozenset("\u00b7\u05f3\u05f4\u0f0b\u30fb")
"""Beyond letters, marks, numbers and emoji: what names may carry in Catalan, Hebrew, Tibetan, Japanese (RFC 5892)."""

_INTERNAL_SUFFIXES = (
    # RFC 6761 6.3 and the names that /etc/hosts gives to 127.0.0.1 and ::1
    "localhost", "localdomain", "localhost4", "localdomain4", "localhost6", "localdomain6",
    # multicast DNS (RFC 6762) and the made-up roots of private networks that its appendix G lists; ICANN keeps
    # `internal` (2024) for them, and cloud metadata answers there; RFC 8375
    "local", "intranet", "internal", "private", "corp", "home", "lan", "home.arpa",
    # usual in offices, Kubernetes (`redis.team.svc`) and Consul; none of them is a public root
    "intra", "svc", "consul",
)  # fmt: skip

_INTERNAL_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        # IANA IPv4 Special-Purpose Address Registry; written out since `is_global` differs between Pythons
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # public by number, but Azure's own agent to each of its machines
    )
)  # fmt: skip

_GLOBAL_IPV6 = IPv6Network("2000::/3")
"""All that IANA has allocated for use in public. Outside it lie ::1, mapped and compatible IPv4, NAT64, fc00::/7,
fe80::/10, ff00::/8."""

_INTERNAL_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments: Teredo (carries an IPv4 address), benchmarking, ORCHID
        "2001:db8::/32", "3fff::/20",  # documentation
        "2002::/16",  # 6to4: carries an IPv4 address; retired by RFC 7526
        "3ffe::/16",  # 6bone: handed back by RFC 3701
    )
)  # fmt: skip

_ISATAP = (0x00005EFE, 0x02005EFE)
"""RFC 5214 6.1: an interface id that begins so carries an IPv4 address in its last 32 bits."""


def require_public(url: str, param: str) -> None:
    """Returns where `url` is one that the upstream may be asked to fetch; it is sent on unchanged.

    `param` names the field of the body. `data:` URLs are refused too: whoever allows them looks before asking.
    Raises InvalidValue with `param` and a sentence that says what to do.
    """
    if fault := _fault(url):
        raise InvalidValue(
            f"'{param}' must be a public http or https URL, but {fault}. Send such a URL, or the file itself.",
            param=param,
        )


def _fault(url: str) -> str | None:
    """What is wrong with `url`, as a clause; None where nothing is."""
    if len(url) > MAX_URL_CHARS:
        return f"this one is longer than {MAX_URL_CHARS} characters"
    if _ODD.search(url):
        return "it contains a blank, a control character or a backslash; percent-encode it"
    if not (shape := _SHAPE.fullmatch(url)):
        return "this one does not begin with http:// or https:// and a host"
    if "@" in shape["authority"]:
        return "this one contains a user name or password before the host"
    # `http://good.example?@10.0.0.1/`: old parsers look for the last @ before the first slash
    if "@" in shape["rest"].partition("/")[0]:
        return "it has an @ right after the host; write a / before the ? or #"
    if not (parts := _AUTHORITY.fullmatch(shape["authority"])) or int(parts["port"] or 1) > 0xFFFF:
        return "its host or port cannot be read"
    host = parts["host"]
    return _ipv6_fault(host[1:-1]) if host.startswith("[") else _host_fault(host)


def _host_fault(host: str) -> str | None:
    """`host` is a name or an IPv4 address."""
    if _PLAIN_IPV4.fullmatch(host):
        return _INTERNAL if _internal_ipv4(host) else None
    name = _lookup_name(host)
    if name is None:
        return "its host is not a valid name"
    labels = name.split(".")
    if unicodedata.category(labels[-1][0]).startswith("N"):
        # WHATWG URL 3.5, "ends in a number": decimal, octal, hex, short or overflowing IPv4. No public root begins
        # with a digit, of any script; so neither does a name.
        return "its host is a number; write an IPv4 address as four plain decimals"
    if len(labels) == 1:
        return "its host is a name without a dot, which only an internal network knows"
    if any(f".{name}".endswith(f".{suffix}") for suffix in _INTERNAL_SUFFIXES):
        return _INTERNAL
    return None


def _lookup_name(host: str) -> str | None:
    """The name that a resolver may be asked for, in Unicode and lower case, without the root's dot.

    None where it could be no name. Full-width and circled letters, ligatures, ideographic stops, invisible characters
    and Punycode are undone, as IDNA does (UTS 46, 4), and nothing may be left that is not part of a name.
    """
    if len(host) > _MAX_HOST_CHARS:
        return None
    labels = [_decoded(label) for label in _folded(host).removesuffix(".").split(".")]
    # folded once more: what was in Punycode may hide ASCII again
    name = _folded(".".join(labels))
    for label in name.split("."):
        if not 0 < len(label) <= _MAX_LABEL_CHARS or label.startswith("xn--") or not all(map(_is_name_char, label)):
            return None
    return name


def _folded(text: str) -> str:
    """Compatibility forms, case and ignorable characters undone; every dot of IDNA is a full stop (RFC 3490, 3.1)."""
    return unicodedata.normalize("NFKC", _IGNORABLE.sub("", text)).casefold().replace("\u3002", ".")


def _decoded(label: str) -> str:
    """`xn--bcher-kva` -> `bücher`; a label that is not Punycode, or not validly so, as it is."""
    if not label.startswith("xn--"):
        return label
    try:
        return label[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        return label


def _is_name_char(char: str) -> bool:
    if char.isascii():
        return char in _NAME_CHARS
    if char == "\ufffd":  # what a decoder puts for bytes that it could not read
        return False
    return unicodedata.category(char).startswith(_NAME_CATEGORIES) or char in _NAME_PUNCTUATION


_INTERNAL = "its host is internal or reserved"


def _internal_ipv4(plain: str) -> bool:
    address = IPv4Address(plain)
    return any(address in network for network in _INTERNAL_IPV4)


def _ipv6_fault(text: str) -> str | None:
    """`text` is what stood in the brackets. A zone id (`fe80::1%25eth0`) is no part of a public address."""
    try:
        address = IPv6Address(text) if _PLAIN_IPV6.fullmatch(text) else None
    except ValueError:
        address = None
    if address is None:
        return "its IPv6 address cannot be read"
    if address not in _GLOBAL_IPV6 or any(address in network for network in _INTERNAL_IPV6):
        return _INTERNAL
    return _INTERNAL if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP else None
