import struct
import zlib

from oxyy_proxy.simulator import png


def chunks(data):
    """(kind, data) of every chunk; each CRC is checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    start, found = 8, []
    while start < len(data):
        (size,) = struct.unpack_from(">I", data, start)
        kind, body = data[start + 4 : start + 8], data[start + 8 : start + 8 + size]
        assert struct.unpack_from(">I", data, start + 8 + size) == (zlib.crc32(kind + body),)
        found.append((kind, body))
        start += 12 + size
    return found


def test_a_picture_is_a_valid_png_of_its_size():
    (header, shape), (pixels, packed), end = chunks(png.picture(b"seed"))
    assert (header, pixels, end) == (b"IHDR", b"IDAT", (b"IEND", b""))
    width, height, *form = struct.unpack(">IIBBBBB", shape)
    assert form == [8, 2, 0, 0, 0]  # 8 bits, RGB, the only compression and filter, not interlaced
    rows = zlib.decompress(packed)
    assert len(rows) == height * (1 + 3 * width)
    assert set(rows[:: 1 + 3 * width]) == {0}


def test_the_seed_decides_the_picture():
    assert png.picture(b"a") == png.picture(b"a") != png.picture(b"b")
