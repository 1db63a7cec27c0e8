"""Whether a file is the one that the Hub means: sha256 of what it keeps as LFS or Xet, git's hash of the rest."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from timm_asap.errors import UserError

__all__ = ["check_download", "digest_like", "sha256"]

# In the folder of a cached repository, beside its blobs: deleted with them.
_CHECKED = "timm_asap_checked"


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return sha_fileobj(file).hex()


def digest_like(path: Path, stated: str) -> str:
    """The digest of a file of the kind that the Hub stated: sha256 has 64 digits, git's blob hash 40."""
    return sha256(path) if len(stated) == 64 else git_hash(path.read_bytes())


def check_download(path: Path, repo: str) -> None:
    """See that a file in the client's cache has the content that the Hub stated for it.

    The client compares sizes alone. It names each file in its cache by the ETag that the Hub sent, which is the file's
    digest, so this needs no network; where the cache has no symbolic links the Hub is asked, and offline nothing is
    checked. What was checked is noted in the cache: a check of an untouched file costs nothing the next time.

    Args:
        path: What `hf_hub_download` returned.
        repo: The repository.

    Raises:
        UserError: If the content differs: which file to delete, and how to fetch it anew.
    """
    stated = _stated(path, repo)
    if stated is None:
        return
    state = path.stat()
    note, seen = path.parents[2] / _CHECKED / stated, f"{state.st_size} {state.st_mtime_ns}"
    if note.is_file() and note.read_text(encoding="ascii") == seen:
        return
    found = digest_like(path, stated)
    if found != stated:
        raise UserError(
            f"{path.name} of {repo} is not the file that the Hub states (expected {stated[:12]}..., got "
            f"{found[:12]}...): the download is damaged; delete {path.resolve()} and load again, or run "
            f"`hf download {repo} {path.name} --force-download`"
        )
    try:
        note.parent.mkdir(exist_ok=True)
        note.write_text(seen, encoding="ascii")
    except OSError:  # a cache that may only be read: the next load checks again
        return


def _stated(path: Path, repo: str) -> str | None:
    """The digest that the Hub states for a file in the cache (.../snapshots/COMMIT/FILE); None if it cannot be had."""
    if path.is_symlink():
        return Path(os.readlink(path)).name
    try:
        (file,) = HfApi().get_paths_info(repo, path.name, revision=path.parent.name)
    except (OfflineModeIsEnabled, HTTPError):
        return None
    return file.lfs.sha256 if file.lfs else file.blob_id
