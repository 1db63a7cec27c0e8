"""Files of the Hub, compared with the digests that it states: sha256 for LFS and Xet, git's hash for the rest."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from timm_asap._io import sha256
from timm_asap.errors import UserError
from timm_asap.zoo.hub_client import WHILE_IT_COMES, ask, one_line, refuse_answer

__all__ = ["CONFIG", "WEIGHTS", "digest_like", "fetch"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

# In the folder of a cached repository, beside its blobs: deleted with them.
_CHECKED = "timm_asap_checked"


def digest_like(path: Path, stated: str) -> str:
    """The digest of a file of the kind that the Hub stated: sha256 has 64 digits, git's blob hash 40."""
    return sha256(path) if len(stated) == 64 else git_hash(path.read_bytes())


def fetch(repo: str, revision: str | None, file: str, cache_dir: str | Path | None = None) -> Path:
    """Download a file unless it is cached, and see that it is the one that the Hub states.

    Args:
        repo: The repository.
        revision: Branch, tag or commit; None for main.
        file: Its path there.
        cache_dir: Folder of the downloads; by default the client's.

    Returns:
        The file in the cache; the folder above it is called after the commit.

    Raises:
        UserError: If it is not there, is not available, or differs from what the Hub states.
    """

    def download() -> Path:
        try:
            return Path(hf_hub_download(repo, file, revision=revision, cache_dir=cache_dir))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as error:
            if file != WEIGHTS:
                raise UserError(f"{repo} has no {file}: expected a model of timm") from error
            raise UserError(
                f"{repo} has no {WEIGHTS}: timm_asap.load takes safetensors alone; timm.create_model also takes "
                "pickled weights, which can run code"
            ) from error

    path = ask(download, repo, revision, tries=1, wait_s=WHILE_IT_COMES)  # the client repeats it itself
    with one_line(repo, revision):
        check_download(path, repo)
    return path


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
    if note.is_file() and note.read_text(encoding="ascii", errors="replace") == seen:
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
    """The digest that the Hub states for a file in the cache (.../snapshots/COMMIT/FILE); None offline."""
    if path.is_symlink():
        return Path(os.readlink(path)).name
    try:
        found = ask(lambda: HfApi().get_paths_info(repo, path.name, revision=path.parent.name), repo, path.parent.name)
    except UserError as error:
        if isinstance(error.__cause__, (OfflineModeIsEnabled, HTTPError)):
            return None
        raise
    if len(found) != 1:
        refuse_answer(repo, f"expected the digest of {path.name}, got {len(found)} files")
    if not isinstance(found[0], RepoFile):
        refuse_answer(repo, f"expected the digest of {path.name}, got a folder")
    stated = found[0].lfs.sha256 if found[0].lfs else found[0].blob_id
    if not isinstance(stated, str):
        refuse_answer(repo, f"expected the digest of {path.name}, got a {type(stated).__name__}")
    return stated
