"""No spelling of an internal address gets past; the URLs that people really send do.

The tables gather what WHATWG's `urltestdata.json` and `toascii.json`, PayloadsAllTheThings ("Server Side Request
Forgery"), Orange Tsai's "A New Era of SSRF" (2017) and OWASP's cheat sheet list.
"""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oxyy_proxy.errors import InvalidValue
from oxyy_proxy.rules.urls import MAX_URL_CHARS, require_public

PUBLIC = [
    "http://example.com",
    "https://example.com/",
    "HTTPS://EXAMPLE.COM/A.PNG",
    "https://cdn.example.com:8443/a/b.mp3?sig=a%2Fb&x=1#t=10",
    "https://example.com?x=1",
    "https://example.com#top",
    "https://example.com:/empty-port",
    "https://example.com:65535/",
    "https://example.com./the-root-dot",
    "https://my_bucket.s3.amazonaws.com/under_score",
    "https://-a.example.com/",
    "https://a--b.example/",
    "https://example.com/a@b.png",
    "https://example.com/?mail=a@example.com",
    "https://example.com/http://127.0.0.1/",
    "https://example.com/?next=http://localhost/",
    "https://example.com//x",
    "https://bücher.example/x.png",
    "https://xn--bcher-kva.example/x.png",
    "https://straße.example/",
    "https://日本語。jp/",
    "https://例え.テスト/",
    "https://نامه‌ای.example/",
    "https://l·l.example/",
    "https://💩.la/",
    "https://👍🏽.ws/",
    "https://हिन्दी.example/",
    "https://日本語。xn--bcher-kva.example/",
    "https://example.com/日本語/ñ.png?q=é",
    "https://127.0.0.1.example/",
    "https://10.example.com/",
    "https://localhost.example.com/",
    "https://internal.example.com/",
    "http://8.8.8.8/",
    "http://1.1.1.1:8080/x",
    "http://172.15.255.255/",
    "http://172.32.0.0/",
    "http://100.63.255.255/",
    "http://100.128.0.0/",
    "http://223.255.255.255/",
    "http://[2001:4860:4860::8888]/",
    "http://[2606:4700::1111]:443/x",
    "http://[2A00:1450:4001:81B::200E]/",
    "https://example.com/" + "a" * (MAX_URL_CHARS - 20),
]

REFUSED = {
    "no http": [
        "", "example.com", "//example.com/x", "/etc/passwd", "http:", "https://", "http:///x", "http://?x", "http://#x",
        "http:example.com", "http:/example.com", "http:/127.0.0.1", "http:///127.0.0.1/", "http:\\\\example.com",
        "file:///etc/passwd", "file://example.com/x", "ftp://example.com/x", "gopher://example.com:70/_x",
        "data:image/png;base64,AAAA", "javascript:alert(1)", "dict://example.com:11211/stat", "sftp://example.com/",
        "ldap://example.com/", "tftp://example.com/x", "jar:http://example.com!/x", "blob:https://example.com/x",
        "ws://example.com/", "netdoc:///etc/passwd", "url:http://example.com/", "httpx://example.com/",
        "0://example.com:80;http://example.com:80/",
    ],
    "blanks, controls, backslashes, surrogates": [
        " http://example.com/", "http://example.com/ ", "\thttp://example.com/", "ht\ntp://example.com/",
        "http://exam\tple.com/", "http://exam\rple.com/", "http://example.com/a b", "http://example.com/\x00",
        "http://example.com/\x7f", "http://example.com/\x85", "http://example.com/\u00a0", "http://example.com/\u2028",
        "http://example.com/\u3000", "\ufeffhttp://example.com/", "http://example.com\\@127.0.0.1/",
        "http://127.0.0.1:80\\@example.com/", "http://example.com/a\\b", "http://example.com/\ud800",
        "http://example.com/\r\nHost: 127.0.0.1", "http://1.1.1.1 &@2.2.2.2# @3.3.3.3/",
    ],
    "too long": ["https://example.com/" + "a" * (MAX_URL_CHARS - 19)],
    "user names": [
        "http://good.example@127.0.0.1/", "http://127.0.0.1@good.example/", "http://a:b@good.example/",
        "http://@good.example/", "http://:@good.example/", "http://good.example:80@127.0.0.1/",
        "http://good.example%40127.0.0.1/", "http://good.example?@127.0.0.1/", "http://good.example#@127.0.0.1/",
        "http://a@b@good.example/", "http://good.example＠127.0.0.1/",
    ],
    "hosts and ports that cannot be": [
        "http://example.com:0/", "http://example.com:65536/", "http://example.com:99999/", "http://example.com:abc/",
        "http://example.com:-1/", "http://example.com:+80/", "http://example.com:080/", "http://example.com:80:80/",
        "http://example.com:８０/", "http://:80/", "http://example..com/", "http://.example.com/",
        "http://example.com../", "http://./", "http://ex%61mple.com/", "http://%6c%6f%63alhost/", "http://127.0.0.1%2f/",
        "http://127.0.0.1%00.example.com/", "http://127.0.0.1;.example.com/", "http://127.0.0.1,example.com/",
        "http://ex<mple.com/", "http://{example}.com/", "http://exa`mple.com/", "http://$host.com/", "http://*.com/",
        "http://exam^ple.com/", "http://a|b.com/", "http://example.com]/", "http://[example.com/", "http://[]/",
        "http://example.com／.good.example/", "http://example.com℀.good.example/", "http://a∕b.example/",
        "http://\ufffd.com/", "http://xn--zn7c.com/", "http://xn--a.example/", "http://xn--ls8h=.example/",
        "http://xn--tešla.example/", "http://xn--99999999999999.example/", "http://xn--xn--a-ecp.example/",
        f"http://{'a' * 64}.example/", "http://" + "a." * 126 + "example/", "http://\u00ad.example/", "http://\u200d.example/",
    ],
    "names of this machine and of private networks": [
        "http://localhost/", "http://LOCALHOST/", "http://localhost:6379/", "http://localhost./", "http://localhost../",
        "http://a.localhost/", "http://a.b.localhost./", "http://localhost.localdomain/", "http://localhost6/",
        "http://localhost6.localdomain6/", "http://ip6-localhost/", "http://ip6-loopback/", "http://metadata/",
        "http://redis:6379/", "http://a/", "http://ai./", "http://münchen/", "http://metadata.google.internal/",
        "http://METADATA.GOOGLE.INTERNAL./", "http://instance-data.ec2.internal/", "http://host.docker.internal/",
        "http://printer.local/", "http://kubernetes.default.svc.cluster.local/", "http://redis.team.svc/",
        "http://router.lan/", "http://wiki.corp/", "http://wiki.intranet/", "http://nas.home/", "http://nas.home.arpa/",
        "http://home.arpa/", "http://a.𝐋𝐎𝐂𝐀𝐋/",
        "http://db.private/", "http://vault.service.consul/", "http://ｌｏｃａｌｈｏｓｔ/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
        "http://𝐥𝐨𝐜𝐚𝐥𝐡𝐨𝐬𝐭/", "http://localhoſt/", "http://a.localhoſt/", "http://a.local\u00adhost/",
        "http://a.local\u200bhost/", "http://a.loc\u2060al/", "http://a\u3002local/", "http://a\uff0elocal/",
        "http://a\uff61local/", "http://a\u2024local/", "http://a.ｌocal/", "http://xn--localhost-/", "http://a.xn--local-/",
        "http://a.XN--LOCAL-/", "http://a.xn--local-2ha/", "http://a.xn--ocal-u81b/", "http://xn--orhcp.0.0.1/",
        "http://a.ˡocal/", "http://metadata.google.ⅰnternal/", "http://a.\U0001cce1ocal/",
    ],
    "IPv4, plain": [
        "http://0.0.0.0/", "http://0.1.2.3/", "http://10.0.0.1/", "http://10.255.255.255/", "http://100.64.0.1/",
        "http://100.100.100.200/", "http://127.0.0.1/", "https://127.0.0.1:8443/x", "http://127.127.127.127/",
        "http://127.0.0.1?x", "http://127.0.0.1#x", "http://169.254.169.254/latest/meta-data/", "http://169.254.170.2/",
        "http://172.16.0.1/", "http://172.31.255.255/", "http://192.0.0.192/", "http://192.0.2.1/",
        "http://192.88.99.1/", "http://192.168.1.1/", "http://198.18.0.1/", "http://198.51.100.1/",
        "http://203.0.113.1/", "http://224.0.0.1/", "http://239.255.255.250/", "http://240.0.0.1/",
        "http://255.255.255.255/", "http://168.63.129.16/",
    ],
    "IPv4, in other spellings": [
        "http://2130706433/", "http://017700000001/", "http://0x7f000001/", "http://0X7F000001/", "http://0x7f.1/",
        "http://127.1/", "http://127.0.1/", "http://10.1/", "http://0/", "http://0x/", "http://0x0/", "http://00/",
        "http://0177.0.0.1/", "http://0177.1/", "http://0x7f.0.0.1/", "http://0x7f.0.0.0x1/", "http://0177.0x0.0.1/",
        "http://127.0.0.01/", "http://127.000.000.001/", "http://127.0.0.1./", "http://127.0.0.1../",
        "http://2852039166/", "http://0xa9fea9fe/", "http://169.16689662/", "http://0251.0376.0251.0376/",
        "http://4294967296/", "http://6425673729/", "http://256.256.256.256/", "http://127.0.0.257/",
        "http://383.0.0.1/", "http://1.2.3.4.5/", "http://127.0.0.0x1/", "http://a.1.2.0x./", "http://foo.0/",
        "http://bar.0.09/", "http://09.1.2.3/", "http://0o177.0.0.1/", "http://q177.0.0.1/", "http://127.0.0.0o1/",
        "http://1.1.1.1e0/", "http://127.0.0.1_/", "http://127.0.0.1-/", "http://8.8.2056/", "http://0x8.8.8.8/",
        "http://010.8.8.8/", "http://134744072/", "http://8.8.8.8./", "http://+127.0.0.1/",
        "http://①②⑦.⓪.⓪.①/", "http://①②⑦.⓿.⓿.❶/", "http://⑴.⑵.⑶.⑷/", "http://⒈⒈⒈1/", "http://127。0。0。1/",
        "http://127．0．0．1/", "http://127｡0｡0｡1/", "http://１２７.0.0.1/", "http://𝟏𝟐𝟕.0.0.1/", "http://¹²⁷.0.0.1/",
        "http://١٢٧.٠.٠.١/", "http://๑๒๗.๐.๐.๑/", "http://127.0.0.1\u00ad/", "http://127.0.\u200b0.1/",
        "http://127.0.0.1\ufe0f/", "http://0ｘ7f.1/", "http://0ⅹ7f.1/", "http://127.0.0.xn--1-/", "http://xn--127-.0.0.1/",
        "http://⑯⑨。②⑤④。⑯⑨｡②⑤④/", "http://127.0.0.1\u0338/",
    ],
    "IPv6": [
        "http://[::1]/", "http://[::]/", "http://[0:0:0:0:0:0:0:1]/", "http://[0000::0001]:80/", "http://[::127.0.0.1]/",
        "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::FFFF:A9FE:A9FE]/", "http://[::ffff:8.8.8.8]/",
        "http://[0:0:0:0:0:ffff:a9fe:a9fe]/", "http://[::ffff:0:127.0.0.1]/", "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::10.0.0.1]/", "http://[64:ff9b:1::a00:1]/", "http://[2002:7f00:1::]/", "http://[2002:a9fe:a9fe::1]/",
        "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", "http://[2001:db8::1]/", "http://[3fff::1]/",
        "http://[3ffe::1]/", "http://[5f00::1]/", "http://[100::1]/", "http://[fc00::1]/", "http://[fd00:ec2::254]/",
        "http://[fe80::1]/", "http://[febf::1]/", "http://[fec0::1]/", "http://[ff02::1]/", "http://[4000::1]/",
        "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[2606:4700::1111%25eth0]/",
        "http://[2606:4700::5efe:7f00:1]/", "http://[2606:4700::200:5efe:a00:1]/", "http://[v1.x]/", "http://[:::1]/",
        "http://[1::2::3]/", "http://[::1", "http://::1/", "http://0000::1:80/", "http://[::1]x/", "http://x[::1]/",
        "http://[::1].example.com/", "http://[[::1]]/", "http://[127.0.0.1]/", "http://[localhost]/",
        "http://[２606:4700::1111]/", "http://[2606:4700::1111 ]/",
    ],
}  # fmt: skip


@pytest.mark.parametrize("url", PUBLIC)
def test_a_public_url_is_accepted(url: str) -> None:
    require_public(url, "image")


@pytest.mark.parametrize(("reason", "url"), [(reason, url) for reason, urls in REFUSED.items() for url in urls])
def test_any_other_url_is_refused(reason: str, url: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        require_public(url, "image")
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "http:// or https://"),
        ("ftp://x.example/", "http:// or https://"),
        ("x" * 9000, "8192"),
        ("http://a b/", "percent-encode"),
        ("http://a@b.example/", "user name"),
        ("http://b.example?@10.0.0.1/", "write a / before"),
        ("http://a.example:x/", "port"),
        ("http://a..b/", "not a valid name"),
        ("http://a/", "without a dot"),
        ("http://1.2/", "four plain decimals"),
        ("http://10.0.0.1/", "internal"),
        ("http://a.local/", "internal"),
        ("http://[x]/", "IPv6"),
        ("http://[::1]/", "internal"),
    ],
)
def test_a_refusal_names_the_field_and_says_what_to_do(url: str, says: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        require_public(url, "messages[0].content[1].image_url.url")
    assert refused.value.param == "messages[0].content[1].image_url.url"
    assert says in refused.value.message
    assert refused.value.message.endswith("Send such a URL, or the file itself.")
    assert len(refused.value.message) < 300, "what was sent does not come back"


def accepted(url: str) -> bool:
    try:
        require_public(url, "image")
    except InvalidValue:
        return False
    return True


# --- every spelling of every address

NETWORKS = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
    )
]  # fmt: skip
INTERNAL = st.one_of(*(st.integers(int(net[0]), int(net[-1])) for net in NETWORKS)).map(ipaddress.IPv4Address)
DIGITS = ["0123456789", "０１２３４５６７８９", "⓪①②③④⑤⑥⑦⑧⑨", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗", "⁰¹²³⁴⁵⁶⁷⁸⁹", "⓿❶❷❸❹❺❻❼❽❾", "٠١٢٣٤٥٦٧٨٩"]
DOTS = ".．。｡․"
INVISIBLE = ["", "", "", "\u00ad", "\u200b", "\u2060", "\ufe0f"]
IPV6_PREFIXES = ["::ffff:", "::", "::ffff:0:", "64:ff9b::", "64:ff9b:1::", "fe80::5efe:", "2a00::5efe:", "fd00::"]


def spelled(address: ipaddress.IPv4Address, random: random.Random) -> str:
    """What inet_aton(3) reads as this address: 1 to 4 parts, each decimal, octal or hex, in one of many scripts."""
    if random.random() < 0.2:
        tail = str(address) if random.random() < 0.5 else f"{int(address) >> 16:x}:{int(address) & 0xFFFF:x}"
        return f"[{random.choice(IPV6_PREFIXES)}{tail}]"
    octets = address.packed
    split = random.randrange(4)
    parts = [*octets[:split], int.from_bytes(octets[split:], "big")]
    texts = [random.choice(("{}", "0{:o}", "00{:o}", "0x{:x}", "0X{:X}", "0x00{:x}")).format(part) for part in parts]
    text = "".join(random.choice(DOTS) + part if at else part for at, part in enumerate(texts))
    text = "".join(random.choice(DIGITS)[int(char)] if char.isdecimal() else char for char in text)
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice(INVISIBLE) + text[at:] + random.choice(("", "", ".", ":80"))


@settings(max_examples=400)
@given(INTERNAL, st.randoms(use_true_random=False))
def test_no_spelling_of_an_internal_address_is_accepted(address: ipaddress.IPv4Address, random: random.Random) -> None:
    for url in (f"http://{address}/", f"http://{spelled(address, random)}/x"):
        assert not accepted(url), url


@settings(max_examples=200)
@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_accepted_where_it_is_public(address: ipaddress.IPv4Address) -> None:
    public = not any(address in network for network in NETWORKS)
    assert accepted(f"http://{address}/") == accepted(f"https://{address}:8080/x?y") == public


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_an_internal_network_ends_where_it_ends(network: ipaddress.IPv4Network) -> None:
    assert not accepted(f"http://{network[0]}/")
    assert not accepted(f"http://{network[-1]}/")
    for neighbour in (int(network[0]) - 1, int(network[-1]) + 1):
        if 0 <= neighbour < 1 << 32 and not any(ipaddress.IPv4Address(neighbour) in other for other in NETWORKS):
            assert accepted(f"http://{ipaddress.IPv4Address(neighbour)}/")


@settings(max_examples=200)
@given(st.ip_addresses())
def test_what_python_knows_to_be_internal_is_refused(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """One way only: what `is_global` answers depends on the version of Python."""
    assume(not address.is_global or address.is_multicast)
    host = f"[{address}]" if address.version == 6 else address
    assert not accepted(f"http://{host}/")


@settings(max_examples=150)
@given(st.integers(0x2400 << 112, (0x2D00 << 112) - 1).map(ipaddress.IPv6Address))
def test_an_ipv6_address_of_a_regional_registry_is_accepted(address: ipaddress.IPv6Address) -> None:
    assume((int(address) >> 32) & 0xFDFFFFFF != 0x5EFE)
    assert accepted(f"http://[{address}]/")
    assert accepted(f"http://[{address.exploded.upper()}]:443/x")


# --- any text

HOSTILE_TEXT = st.text(st.one_of(st.sampled_from("./:@?#[]%\\-_0x127afvhtp。．①｡\u00ad\u200b\ud800"), st.characters()))


@settings(max_examples=600)
@given(st.sampled_from(("", "http://", "https://", "http://[", "http://xn--", "http://a.xn--")), HOSTILE_TEXT)
def test_any_text_is_accepted_or_refused_and_nothing_else(start: str, text: str) -> None:
    accepted(start + text)


@settings(max_examples=150)
@given(st.from_regex(r"([a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\.){1,3}(com|org|ai|example|xn--p1ai)", fullmatch=True))
def test_an_ordinary_name_is_accepted(name: str) -> None:
    assume("xn--" not in name.removesuffix("xn--p1ai"))
    assert accepted(f"https://{name}/x")
    assert accepted(f"https://{name.upper()}:443/x?y=z#w")
