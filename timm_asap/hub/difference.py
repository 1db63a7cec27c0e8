"""What publishing would change in a repository, and what of that somebody else wrote there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from huggingface_hub.hf_api import RepoFile

from timm_asap.hub.bundle import Bundle
from timm_asap.text import as_text
from timm_asap.zoo.downloads import digest_like

__all__ = ["Difference", "compare", "stated_digest"]


@dataclass(frozen=True)
class Difference:
    """Paths in the repository, each list sorted.

    Args:
        added: Sent for the first time.
        changed: Replaced.
        unchanged: There already, with the same content.
        kept: The repository's own, which publishing never touches.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def to_send(self) -> tuple[str, ...]:
        """What a commit has to hold."""
        return self.added + self.changed

    def __str__(self) -> str:
        """A line per file."""
        groups = {"added": self.added, "changed": self.changed, "unchanged": self.unchanged, "kept": self.kept}
        return "\n".join(f"{group:9} {as_text(path)}" for group, paths in groups.items() for path in paths)


def compare(bundle: Bundle, there: Iterable[RepoFile]) -> Difference:
    """Compare what would be sent with what is there, by sha256 or git's hash as the Hub states either.

    Args:
        bundle: What would be sent.
        there: The files of the repository at the revision that would be committed to.
    """
    stated = {file.path: stated_digest(file) for file in there}
    same = {p for p in bundle.sha256 if p in stated and digest_like(bundle.folder / p, stated[p]) == stated[p]}
    return Difference(
        added=tuple(sorted(bundle.sha256.keys() - stated.keys())),
        changed=tuple(sorted((bundle.sha256.keys() & stated.keys()) - same)),
        unchanged=tuple(sorted(same)),
        kept=tuple(sorted(stated.keys() - bundle.sha256.keys())),
    )


def stated_digest(file: RepoFile) -> str:
    """What the Hub states of a file's content: sha256 of what it keeps as LFS or Xet, git's hash of the rest."""
    return file.lfs.sha256 if file.lfs else file.blob_id
