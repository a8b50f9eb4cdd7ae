import base64
import hashlib

import pytest

from oxyy_proxy.simulator.errors import ApiError
from oxyy_proxy.simulator.uploads import File, Upload, of_base64, upload


def test_a_record_has_the_hash_and_not_the_bytes():
    record = upload("images", File("image", b"abc", "a.png", "image/png"))
    assert record == Upload("images", "image", "a.png", "image/png", 3, hashlib.sha256(b"abc").hexdigest())


@pytest.mark.parametrize(
    ("part", "role"),
    [("image", "image"), ("image[]", "image"), ("image[2]", "image"), ("image_base64", "image"), ("mask", "mask"),
     ("file_base64", "file"), ("other", "other")],
)  # fmt: skip
def test_the_role_is_the_same_however_the_part_is_spelled(part, role):
    assert File(part, b"").role == role


def test_base64_fields_are_files():
    packed = [base64.b64encode(data).decode() for data in (b"one", b"two", b"three")]
    body = {"image_base64": packed[:2], "file_base64": f"data:audio/wav;base64,{packed[2]}", "other_base64": "%"}
    assert [(file.part, file.data) for file in of_base64(body)] == [
        ("image_base64", b"one"),
        ("image_base64", b"two"),
        ("file_base64", b"three"),
    ]


@pytest.mark.parametrize("bad", ["a", "%%%%", "", 5, [5], {"a": 1}, "ü"])
def test_what_is_not_base64_is_a_400_that_names_the_field(bad):
    with pytest.raises(ApiError, match="'image_base64'") as refused:
        list(of_base64({"image_base64": bad}))
    assert refused.value.status == 400
