"""Images in fields: what is read, what is refused and in which words, and that no bytes at all break the reader."""

import base64
import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from connectors.errors import SchemaError
from connectors.images import BYTES_MAX, ImageError, ImageField, check_value, decode_image, is_place, pixels_of

GRAY = np.random.default_rng(3).integers(0, 256, (64, 64)).astype(np.uint8)
FIELD = ImageField(size=64)


def stored(pixels: np.ndarray, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("format", ["PNG", "BMP"])
def test_pixels_come_through_unharmed(format):
    np.testing.assert_array_equal(pixels_of(text(stored(GRAY, format)), FIELD)[:, :, 0], GRAY)


def test_a_data_url_is_the_same_image():
    plain = text(stored(GRAY))
    np.testing.assert_array_equal(pixels_of(f"data:image/png;base64,{plain}", FIELD), pixels_of(plain, FIELD))


def test_colours_become_brightness_or_stay():
    red = np.zeros((64, 64, 3), np.uint8)
    red[:, :, 0] = 200
    assert np.unique(decode_image(stored(red), 64, 1)).tolist() == [60]  # 0.299 of it
    np.testing.assert_array_equal(decode_image(stored(red), 64, 3), red)
    np.testing.assert_array_equal(decode_image(stored(GRAY), 64, 3), np.repeat(GRAY[:, :, None], 3, axis=2))


def test_sixteen_bits_keep_their_upper_eight():
    deep = GRAY.astype(np.uint16) << 8
    np.testing.assert_array_equal(decode_image(stored(deep), 64, 1)[:, :, 0], GRAY)


def test_other_sizes_are_scaled():
    flat = np.full((300, 200), 77, np.uint8)
    for format in ("PNG", "JPEG"):
        found = decode_image(stored(flat, format), 64, 1)
        assert found.shape == (64, 64, 1)
        assert np.unique(found).tolist() == [77]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "none of PNG, JPEG, BMP"),
        (b"GIF89a" + bytes(40), "none of PNG, JPEG, BMP"),
        (stored(GRAY)[:-40], "cannot be decoded"),
        (stored(GRAY, "JPEG")[:300], "cannot be decoded"),
        (stored(GRAY).replace(b"IDAT", b"IDAX"), "cannot be decoded"),
        (bytes(BYTES_MAX + 1), "8,388,609 bytes, more than 8,388,608"),
    ],
)
def test_what_is_no_image_is_told(data, cause):
    with pytest.raises(ImageError, match=cause):
        decode_image(data, 64, 1)


def test_a_bomb_is_refused_before_it_is_decoded():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 8192, 8192, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(8193 * 8192), 1)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert len(bomb) < 400_000
    with pytest.raises(ImageError, match="8192 by 8192, more than 16,777,216 pixels"):
        decode_image(bomb, 64, 1)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_in_words(data):
    with pytest.raises(ImageError, match="image"):
        decode_image(data, 64, 1)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(["PNG", "JPEG", "BMP"]), st.data())
def test_a_damaged_image_gives_pixels_or_a_cause(format, data):
    bytes_ = bytearray(stored(GRAY, format))
    for _ in range(data.draw(st.integers(1, 4))):
        bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(bytes_), 64, 1).shape == (64, 64, 1)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_any_text_is_refused_in_words(value):
    with pytest.raises(ImageError, match="image"):
        check_value(value, FIELD)


def test_base64_is_never_a_place():
    assert not is_place(text(bytes(range(256))))
    assert not is_place(f"data:image/png;base64,{text(b'abc')}")
    assert is_place("s3://bucket/a")
    assert is_place("photos/a.png")


def test_places_are_read_below_their_roots_only(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(stored(GRAY))
    (tmp_path / "secret.png").write_bytes(stored(GRAY))
    (tmp_path / "photos" / "out.png").symlink_to(tmp_path / "secret.png")
    root = str(tmp_path / "photos")
    for field in (ImageField(64, 1, (root,)), ImageField(64, 1, (f"file://{root}",))):
        place = f"{field.roots[0]}/a.png"
        np.testing.assert_array_equal(pixels_of(place, field)[:, :, 0], GRAY)
        for bad in ("../secret.png", "%2e%2e/secret.png", "x/../../secret.png"):
            with pytest.raises(ImageError, match="no plain place"):
                pixels_of(f"{field.roots[0]}/{bad}", field)
        with pytest.raises(ImageError, match="not below"):
            pixels_of(f"{field.roots[0]}/out.png", field)
        for bad in (f"{tmp_path}/secret.png", f"file://{tmp_path}/secret.png", "https://example.org/a.png"):
            with pytest.raises(ImageError, match="not below"):
                pixels_of(bad, field)
    np.testing.assert_array_equal(pixels_of("a.png", ImageField(64, 1, (root,)))[:, :, 0], GRAY)
    with pytest.raises(ImageError, match="not below"):
        pixels_of("out.png", ImageField(64, 1, (root,)))
    with pytest.raises(ImageError, match="declares no roots"):
        pixels_of(f"{root}/a.png", FIELD)
    with pytest.raises(ImageError, match="cannot be read"):
        pixels_of("b.png", ImageField(64, 1, (root,)))
    (tmp_path / "photos" / "large.png").write_bytes(bytes(BYTES_MAX + 1))
    with pytest.raises(ImageError, match="more than 8,388,608 bytes"):
        pixels_of("large.png", ImageField(64, 1, (root,)))
    with pytest.raises(ImageError, match="more than 8,388,608 bytes"):
        pixels_of(text(bytes(BYTES_MAX + 4)), FIELD)


def test_an_object_store_is_read_through_fsspec():
    import fsspec

    with fsspec.open("memory://photos/a.png", "wb") as file:
        file.write(stored(GRAY))
    field = ImageField(64, 1, ("memory://photos",))
    np.testing.assert_array_equal(pixels_of("memory://photos/a.png", field)[:, :, 0], GRAY)
    check_value("memory://photos/not-there-yet.png", field)  # a place is judged when it is read


@pytest.mark.parametrize(
    ("size", "channels", "words"), [(100, 1, "multiple of 16"), (16, 1, "from 32"), (64, 2, "1 .* or 3")]
)
def test_sizes_that_no_network_sees_are_refused(size, channels, words):
    with pytest.raises(SchemaError, match=words):
        ImageField(size, channels)
