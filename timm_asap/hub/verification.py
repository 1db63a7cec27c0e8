"""After an upload: everything is downloaded afresh and has to be what was sent."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from huggingface_hub import HfApi

from timm_asap._io import sha256
from timm_asap.errors import UserError
from timm_asap.hub.bundle import Bundle
from timm_asap.hub.remote import SLOWEST_BYTES_PER_S
from timm_asap.hub.run_checks import sample_logits
from timm_asap.zoo import load
from timm_asap.zoo.hub_client import ask

__all__ = ["verify"]


def verify(api: HfApi, repo: str, revision: str, bundle: Bundle) -> None:
    """Download what was published into a cache of its own and compare it with what was sent.

    Args:
        api: The client.
        repo: The repository.
        revision: Commit or reference of a pull request.
        bundle: What was sent.

    Raises:
        UserError: If a file is missing or differs by sha256, or the model that loads from the download gives other
            scores, bit for bit.
    """
    size = sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory(prefix="timm_asap_verify_") as cache:
        folder = Path(
            ask(
                lambda: api.snapshot_download(
                    repo, revision=revision, cache_dir=cache, allow_patterns=[*bundle.sha256]
                ),
                repo,
                revision,
                wait_s=size / SLOWEST_BYTES_PER_S,
            )
        )
        for name, sent in bundle.sha256.items():
            if not (folder / name).is_file():
                raise UserError(f"{repo} was committed, but {name} did not come back: publish again")
            if (came := sha256(folder / name)) != sent:
                raise UserError(
                    f"{repo} was committed, but {name} came back with other content (sent sha256 {sent[:12]}..., got "
                    f"{came[:12]}...): publish again; if it stays so, delete the file on the Hub first"
                )
        if not torch.equal(sample_logits(load(f"local-dir:{folder}")), bundle.logits):
            raise UserError(f"{repo} was committed, but its model gives other scores than the run's: do not use it")
