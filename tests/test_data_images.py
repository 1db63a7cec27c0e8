"""Image files of every mode come out upright, at eight bits, grey or RGB."""

import io

import numpy as np
import pytest
from PIL import Image

from timm_asap.data.images import ImageFileError, decode_image


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def decode(image):
    return decode_image(png(image), "row 0")


def test_sixteen_bits_are_scaled_not_clipped():
    levels = np.array([[0, 257, 128 * 257, 40000, 65535]], dtype=np.uint16)
    image = decode(Image.fromarray(levels))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 1, 128, round(40000 / 257), 255]]


def test_sixteen_bits_in_32_bit_integers_as_older_pillows_read_them():
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 65535]], dtype=np.int32)).save(buffer, format="TIFF")
    image = decode_image({"bytes": buffer.getvalue(), "path": None}, "row 0")
    assert np.asarray(image).tolist() == [[0, 255]]


def test_grey_stays_grey():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    image = decode(Image.fromarray(grey))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), grey)
    assert decode(Image.fromarray(grey > 2)).mode == "L"


def test_transparent_pixels_show_white():
    pixels = np.array([[[200, 0, 0, 0], [200, 0, 0, 255]]], dtype=np.uint8)
    assert np.asarray(decode(Image.fromarray(pixels))).tolist() == [[[255, 255, 255], [200, 0, 0]]]
    grey = np.array([[[50, 0], [50, 255]]], dtype=np.uint8)
    image = decode(Image.fromarray(grey))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[255, 50]]


def test_a_palette_gives_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert np.asarray(decode(image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=1)
    see_through = decode_image({"bytes": buffer.getvalue(), "path": None}, "row 0")
    assert np.asarray(see_through).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_becomes_rgb():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).convert("CMYK").save(buffer, format="JPEG", quality=95)
    image = decode_image({"bytes": buffer.getvalue(), "path": None}, "row 0")
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - [200, 100, 50]).max() <= 4


def test_exif_orientation_is_applied():
    sideways = Image.fromarray(np.array([[0, 255]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise
    buffer = io.BytesIO()
    sideways.save(buffer, format="PNG", exif=exif)
    image = decode_image({"bytes": buffer.getvalue(), "path": None}, "row 0")
    assert np.asarray(image).tolist() == [[0], [255]]


def noise_png():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return png(Image.fromarray(pixels))["bytes"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"nonsense", "not an image"),
        (b"", "not an image"),
        (noise_png()[:2000], "truncated|Truncated"),
        (noise_png()[:400] + b"junk" * 20 + noise_png()[480:], r"broken|CRC|bad|unrecognized"),
    ],
    ids=["nonsense", "empty", "truncated", "damaged"],
)
def test_a_damaged_file_is_named(tmp_path, content, reason):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=rf"cannot read \S*photo\.png: .*({reason}).*; replace") as caught:
        decode_image({"bytes": None, "path": str(path)}, "row 0")
    assert "\n" not in str(caught.value)


def test_a_file_that_went_away(tmp_path):
    with pytest.raises(ImageFileError, match=r"gone\.png.*No such file"):
        decode_image({"bytes": None, "path": str(tmp_path / "gone.png")}, "row 0")


@pytest.mark.parametrize("record", [None, {"bytes": None, "path": None}])
def test_an_empty_row(record):
    with pytest.raises(ImageFileError, match="row 7 of column 'img' is empty"):
        decode_image(record, "row 7 of column 'img'")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[0.5]], dtype=np.float32), "floating-point"),
        (np.array([[70000]], dtype=np.int32), "run from 70000 to 70000, expected 0 to 65535"),
    ],
)
def test_pixels_of_unknown_range(pixels, message):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="TIFF")
    with pytest.raises(ImageFileError, match=message):
        decode_image({"bytes": buffer.getvalue(), "path": "scan.tif"}, "row 0")
