"""Image files of every mode come out upright, at eight bits, gray or RGB."""

import contextlib
import io
import os
import random
import struct

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps

from timm_asap.data import build_loader, load_dataset
from timm_asap.data.config import PixelConfig
from timm_asap.data.images import FORMATS, MAX_PIXELS, ImageFileError, cut_ends, decode_image
from timm_asap.data.loader import _large_transform


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def decode(image):
    return decode_image(png(image), "row 0")


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


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
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3)
    image = decode(Image.fromarray(gray))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), gray)
    assert decode(Image.fromarray(gray > 2)).mode == "L"


def test_transparent_pixels_show_white():
    pixels = np.array([[[200, 0, 0, 0], [200, 0, 0, 255]]], dtype=np.uint8)
    assert np.asarray(decode(Image.fromarray(pixels))).tolist() == [[[255, 255, 255], [200, 0, 0]]]
    gray = np.array([[[50, 0], [50, 255]]], dtype=np.uint8)
    image = decode(Image.fromarray(gray))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[255, 50]]


def test_a_palette_gives_its_colors():
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


# only some formats


@pytest.mark.parametrize("format", [*FORMATS, "MPO"])
def test_formats_that_are_decoded(format):
    options = {"lossless": True} if format == "WEBP" else {}
    if format == "MPO":  # as cameras write it: a JPEG, and further ones after it
        options = {"save_all": True, "append_images": [noise(30, 40, seed=1)]}
    image = decode_image(encoded(noise(30, 40), format, **options), "row 0")
    assert (image.mode, image.size) == ("RGB", (40, 30))
    if format not in ("JPEG", "MPO", "GIF"):
        assert np.array_equal(np.asarray(image), np.asarray(noise(30, 40)))


@pytest.mark.parametrize("format", ["EPS", "PCX", "TGA", "SGI", "ICO", "DDS", "PDF"])
def test_other_formats_are_refused_whatever_the_name(tmp_path, format):
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(noise(32, 32), format)["bytes"])
    with pytest.raises(ImageFileError, match=r"cat\.png: not an image that is decoded here \(JPEG, PNG,"):
        decode_image({"bytes": None, "path": str(path)}, "row 0")


def test_postscript_never_starts_a_program(tmp_path, monkeypatch):
    started = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    record = encoded(noise(32, 32), "EPS")
    for path in (None, str(tmp_path / "cat.png")):
        if path:
            (tmp_path / "cat.png").write_bytes(record["bytes"])
        with pytest.raises(ImageFileError):
            decode_image(record if path is None else {"bytes": None, "path": path}, "row 0")
    assert not started.exists()
    # Pillow, left to itself, starts it
    with contextlib.suppress(Exception), Image.open(tmp_path / "cat.png") as image:
        image.load()
    assert started.exists()


@pytest.mark.parametrize(("side", "reason"), [(12_000, "more than the 134,217,728"), (20_000, "exceeds limit")])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch, side, reason):
    record = encoded(Image.new("1", (side, side)), "PNG")
    assert len(record["bytes"]) < 100_000
    assert side * side > MAX_PIXELS
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self.size))
    with pytest.raises(ImageFileError, match=reason):
        decode_image(record, "row 0")
    assert not decoded


def test_the_bound_of_pixels_can_be_lower():
    record = encoded(noise(20, 30), "PNG")
    assert decode_image(record, "row 0", max_pixels=600).size == (30, 20)
    with pytest.raises(ImageFileError, match="its 30 x 20 pixels are more than the 599"):
        decode_image(record, "row 0", max_pixels=599)


def test_large_transparent_and_16_bit_images_are_converted_in_strips_as_they_are_whole(monkeypatch):
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (50, 30, 4), dtype=np.uint8)),
        Image.fromarray(rng.integers(0, 256, (50, 30, 2), dtype=np.uint8)),
        Image.fromarray(rng.integers(0, 65536, (50, 30), dtype=np.uint16)),
    ]
    whole = [decode(image) for image in images]
    monkeypatch.setattr("timm_asap.data.images._STRIP_PIXELS", 7 * 30)
    for image, expected in zip(images, whole, strict=True):
        assert decode(image).mode == expected.mode
        assert np.array_equal(np.asarray(decode(image)), np.asarray(expected))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_would_block_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageFileError, match=r"pipe\.png: it is no regular file"):
        decode_image({"bytes": None, "path": str(tmp_path / "pipe.png")}, "row 0")


def test_an_error_is_one_line_whatever_the_name(tmp_path):
    path = tmp_path / "a\nb.png"
    path.write_bytes(b"nonsense")
    with pytest.raises(ImageFileError, match=r"a b\.png: not an image"):
        decode_image({"bytes": None, "path": str(path)}, "row 0")


# long images


def test_a_line_of_pixels_takes_no_more_memory_than_others(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (1, 6000), "red").save(tmp_path / "test" / name / "1.png")
        Image.new("RGB", (6000, 1), "red").save(tmp_path / "train" / name / "1.png")
    sizes = []
    resize = Image.Image.resize

    def counted(self, size, *args, **kwargs):
        sizes.append(size)
        assert size[0] * size[1] < 2**24, size
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", counted)
    for streaming in (False, True):
        data = load_dataset("imagefolder", tmp_path, streaming=streaming)
        for split in (data.train, data.test):
            for images, _ in build_loader(split, data, 2, training=False):
                assert images.shape == (2, 3, 224, 224)
                assert (images[:, 0] > 2).all()
    assert len(sizes) >= 8


def test_what_is_cut_would_not_have_been_seen():
    image = noise(40, 40 * 17)
    transform = _large_transform(
        False, unchanged(), PixelConfig(input_size=(3, 32, 32), mean=(0.0,), std=(1.0,), interpolation="bilinear")
    )
    assert cut_ends(image).size == (640, 40)
    torch.testing.assert_close(transform(image), transform.transform(image), atol=1e-6, rtol=0)
    assert cut_ends(noise(40, 640)).size == (640, 40)
    assert cut_ends(noise(700, 40)).size == (40, 640)


def unchanged():
    from timm_asap.data import AugmentConfig

    return AugmentConfig()


# EXIF


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_format(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    record = encoded(noise(16, 24), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    with Image.open(io.BytesIO(record["bytes"])) as image:
        expected = ImageOps.exif_transpose(image)
    assert expected.size == ((24, 16) if orientation < 5 else (16, 24))
    assert np.array_equal(np.asarray(decode_image(record, "row 0")), np.asarray(expected.convert("RGB")))


def exif_block(*entries, header=b"II*\0\x08\0\0\0"):
    """An EXIF block of entries (tag, type, count, value), a value of more than 4 bytes put behind them."""
    body, data = struct.pack("<H", len(entries)), b""
    first = len(header) + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", first + len(data))
        data += value if len(value) > 4 else b""
        body += struct.pack("<HHI", tag, kind, count) + place
    return b"Exif\0\0" + header + body + bytes(4) + data


TURNED = (0x0112, 3, 1, struct.pack("<H", 6))
MALFORMED = {
    "XResolution as text": ((0x011A, 2, 6, b"72dpi\0"),),
    "XResolution of no values": ((0x011A, 2, 0, b""), (0x0128, 3, 1, b"\2\0")),
    "XResolution -1/0": ((0x011A, 10, 1, struct.pack("<ii", -1, 0)),),
    "Make as a fraction": ((0x010F, 10, 1, struct.pack("<ii", -1, 0)),),
    "Make as a number": ((0x010F, 12, 1, struct.pack("<d", 1.5)),),
    "sub-block that is none": ((0x8769, 4, 1, struct.pack("<I", 2**31)),),
    "GPS block as text": ((0x8825, 2, 3, b"no\0"),),
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("entries", MALFORMED.values(), ids=MALFORMED)
def test_only_the_orientation_is_read_of_a_malformed_block(format, entries):
    options = {"lossless": True} if format == "WEBP" else {}
    record = encoded(noise(16, 24), format, exif=exif_block(TURNED, *entries), **options)
    plain = decode_image(encoded(noise(16, 24), format, **options), "row 0")
    expected = plain.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(decode_image(record, "row 0")), np.asarray(expected))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block",
    [
        exif_block((0x0112, 3, 1, struct.pack("<H", 9))),
        exif_block((0x0112, 3, 1, struct.pack("<H", 0))),
        exif_block((0x0112, 3, 2, struct.pack("<HH", 6, 6))),
        exif_block((0x0112, 10, 1, struct.pack("<ii", 6, 0))),
        exif_block((0x0112, 2, 2, b"6\0")),
        exif_block((0x0112, 7, 1, b"\6")),
        exif_block((0x0112, 11, 1, struct.pack("<f", 6))),
        exif_block(TURNED, header=b"IX*\0\x08\0\0\0"),
        exif_block(TURNED, header=b"II*\0\xff\xff\xff\xff"),
        exif_block(TURNED)[:12],
        b"Exif\0\0",
    ],
)
def test_an_orientation_that_is_none_leaves_the_pixels_as_they_lie(format, block):
    options = {"lossless": True} if format == "WEBP" else {}
    expected = decode_image(encoded(noise(16, 24), format, **options), "row 0")
    image = decode_image(encoded(noise(16, 24), format, exif=block, **options), "row 0")
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def with_tiff_tags(record, *entries):
    """A TIFF whose first directory is moved to the end of the file and holds further tags, of at most 4 bytes."""
    content = bytearray(record["bytes"])
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    own = [bytes(content[start + 2 + 12 * n :][:12]) for n in range(count)]
    added = [struct.pack("<HHI", tag, kind, values) + value.ljust(4, b"\0") for tag, kind, values, value in entries]
    own = [entry for entry in own if entry[:2] not in {other[:2] for other in added}]
    content[4:8] = struct.pack("<I", len(content))
    whole = sorted(own + added, key=lambda entry: struct.unpack_from("<H", entry))
    return {"bytes": bytes(content) + struct.pack("<H", len(whole)) + b"".join(whole) + bytes(4), "path": None}


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize(
    "tag",
    [
        (0x011A, 2, 2, b"x\0"),
        (0x011A, 3, 1, b"\1\0"),
        (0x0128, 2, 2, b"x\0"),
        (0x010F, 11, 1, b"abcd"),
        (0x8769, 4, 1, b"\xff\xff\xff\x7f"),
        (0x8825, 2, 2, b"x\0"),
    ],
)
def test_tiff_files_with_tags_that_say_nothing_of_their_pixels(compression, tag):
    record = encoded(noise(16, 24), "TIFF", compression=compression)
    turned = np.asarray(decode_image(with_tiff_tags(record, TURNED, tag), "row 0"))
    expected = noise(16, 24).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(turned, np.asarray(expected))
    none = (0x0112, 2, 2, b"x\0")
    assert np.array_equal(
        np.asarray(decode_image(with_tiff_tags(record, none, tag), "row 0")), np.asarray(noise(16, 24))
    )


@pytest.mark.filterwarnings("ignore")  # Pillow's, of metadata
def test_random_exif_blocks_never_cost_a_picture():
    rng = random.Random(0)
    image = noise(9, 7)
    tags = (0x0112, 0x010F, 0x011A, 0x0128, 0x0131, 0x8769, 0x8825, 0x927C, 0x0111, 0x0201)
    for _ in range(300):
        entries = [
            (rng.choice(tags), rng.randrange(14), rng.choice((0, 1, 1, 2, 5, 2**31)), rng.randbytes(rng.randrange(24)))
            for _ in range(rng.randrange(1, 6))
        ]
        block = bytearray(exif_block(*entries))
        for _ in range(rng.randrange(3)):
            block[rng.randrange(6, len(block))] = rng.randrange(256)
        for format in ("JPEG", "PNG", "WEBP"):
            record = encoded(image, format, exif=bytes(block))
            assert sorted(decode_image(record, "row 0").size) == [7, 9]
