"""What must not reach a card: folders that only their owner has, and access tokens."""

from __future__ import annotations

import html
import mmap
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from timm_asap.errors import UserError
from timm_asap.zoo.hub_client import hide_token

__all__ = ["cut_paths", "refuse_token", "refuse_token_in_file"]

# A path from the root, the home folder or a drive. The slashes of an address, of 8/255 and of user/name follow a
# letter, a digit or another slash.
_PATH = re.compile(r"(?<![\w/\\.\-])(?:~[\w-]*|[A-Za-z]:)?[/\\](?![/\\])[^\s\"',;:)]+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")
_TOKEN_BYTES = re.compile(rb"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}")
_LARGE = 32 * 2**20  # bytes; larger files are searched as they are


def cut_paths(value: Any) -> Any:
    """A record for others to read: of absolute paths in its texts, only the last part.

    Args:
        value: JSON values, nested at will.
    """
    if isinstance(value, dict):
        return {key: cut_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [cut_paths(item) for item in value]
    if isinstance(value, str):
        return _PATH.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], value)
    return value


def refuse_token(name: str, text: str) -> None:
    """See that a text holds no access token of the Hub.

    Args:
        name: What to call it.
        text: The text.

    Raises:
        UserError: If it holds the user's token, or what looks like one.
    """
    if hide_token(text) != text or _TOKEN.search(text):
        raise UserError(
            f"{name} would hold an access token of the Hub: remove it from the run's records, and revoke it"
        )


def refuse_token_in_file(name: str, path: Path) -> None:
    """See that a file of any kind holds no access token of the Hub, pictures included.

    Searched are its bytes as they are and, up to 32 MiB, what they say: text in UTF-16, character references as in an
    SVG, and the compressed texts of a PNG.

    Args:
        name: What to call it.
        path: The file.

    Raises:
        UserError: If it holds the user's token, or what looks like one.
    """
    if path.stat().st_size == 0:
        return
    secrets = [
        secret.strip().encode() for secret in (get_token(), os.environ.get("HF_TOKEN")) if secret and secret.strip()
    ]
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for part in _readings(content):
            if any(part.find(secret) >= 0 for secret in secrets) or _looks_like_token(part):
                raise UserError(f"{name} would hold an access token of the Hub: remove it from the run, and revoke it")


def _looks_like_token(content: bytes | mmap.mmap) -> bool:
    """Found by its beginning first: in weights of a gigabyte that is much faster than a search by pattern."""
    place = content.find(b"hf_")
    while place >= 0:
        if _TOKEN_BYTES.search(content, max(place - 1, 0), place + 3 + 2 * 30):
            return True
        place = content.find(b"hf_", place + 1)
    return False


def _readings(content: mmap.mmap) -> Iterator[bytes | mmap.mmap]:
    yield content
    if len(content) > _LARGE:
        return
    data = content[:]
    yield data.replace(b"\0", b"")
    if b"&#" in data:
        yield html.unescape(data.decode("utf-8", errors="replace")).encode()
    if data.startswith(b"\x89PNG"):
        yield from _png_texts(data)


def _png_texts(data: bytes) -> Iterator[bytes]:
    """The compressed texts of a PNG (chunks zTXt and iTXt, and a color profile), as far as they can be read."""
    place = 8
    while place + 12 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        chunk = data[place + 8 : place + 8 + size]
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            for start in (at for at in range(len(chunk)) if chunk[at : at + 1] == b"\x78"):  # begins a zlib stream
                try:
                    yield zlib.decompressobj().decompress(chunk[start:], _LARGE)
                except zlib.error:
                    continue
        place += 12 + size
