"""Small data sets in files, whose samples can be told apart: the label, or the first pixels, are the number."""

import io
import json
import tarfile

import datasets
from PIL import Image


def numbered_png(number, side=32, mode="RGB"):
    """A PNG of one color that encodes its number (up to 65535) in red and green."""
    color = (number // 256, number % 256, 7)
    buffer = io.BytesIO()
    image = Image.new("RGB", (side, side), color)
    image.convert(mode).save(buffer, format="PNG")
    return buffer.getvalue()


def number_of(image):
    """The number of an image in [0, 1]."""
    red, green = (round(float(value) * 255) for value in image[:2, image.shape[1] // 2, image.shape[2] // 2])
    return red * 256 + green


def parquet_shards(folder, counts, split="train", side=32, classes=None):
    """One Parquet file per count; labels are the numbers, or a ClassLabel of so many classes."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for shard, count in enumerate(counts):
        numbers = range(first, first + count)
        first += count
        rows = datasets.Dataset.from_dict(
            {
                "image": [{"bytes": numbered_png(number, side), "path": None} for number in numbers],
                "label": [number if classes is None else number % classes for number in numbers],
            }
        ).cast_column("image", datasets.Image())
        if classes is not None:
            rows = rows.cast_column("label", datasets.ClassLabel(names=[f"class {n}" for n in range(classes)]))
        rows.to_parquet(folder / f"{split}-{shard:05d}-of-{len(counts):05d}.parquet")
    return folder


def web_shards(folder, counts, split="train", label="cls", side=32, damage=()):
    """One tar per count, as WebDataset has them; images with a number in `damage` are no images."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for shard, count in enumerate(counts):
        with tarfile.open(folder / f"{split}-{shard:04d}.tar", "w") as tar:
            for number in range(first, first + count):
                text = str(number) if label == "cls" else json.dumps({"label": number, "about": "a square"})
                image = b"no image" if number in damage else numbered_png(number, side)
                for extension, content in (("png", image), (label, text.encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        first += count
    return folder
