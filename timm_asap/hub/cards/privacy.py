"""What must not reach a card: folders that only their owner has, and access tokens."""

from __future__ import annotations

import re
from typing import Any

from timm_asap.errors import UserError
from timm_asap.zoo.hub_client import hide_token

__all__ = ["cut_paths", "refuse_token"]

# A path from the root, the home folder or a drive. The slashes of an address, of 8/255 and of user/name follow a
# letter, a digit or another slash.
_PATH = re.compile(r"(?<![\w/\\.\-])(?:~[\w-]*|[A-Za-z]:)?[/\\](?![/\\])[^\s\"',;:)]+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")


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
