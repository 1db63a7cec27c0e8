"""A repository on the Hub, as publishing sees it, and what publishing would change in it.

What the client raises is one line, what it gives is checked; files that somebody else wrote there are told apart.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelInfo, get_token
from huggingface_hub.community import Discussion
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

import timm_asap
from timm_asap.errors import UserError
from timm_asap.hub.bundle import Bundle
from timm_asap.text import as_text
from timm_asap.zoo.hub_client import TRIES, ask, check_repo, refuse_answer
from timm_asap.zoo.hub_files import digest_like

__all__ = ["SLOWEST_BYTES_PER_S", "Difference", "Remote", "compare", "stated_digest"]


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


T = TypeVar("T")

_HASH = re.compile(r"[\w.-]{1,200}")

SLOWEST_BYTES_PER_S = 50_000
"""Bytes per second of the slowest connection that an upload or a download is waited for."""


class Remote:
    """A repository of models.

    Args:
        repo: `user/name`; or `name`, which `sign_in` or `complete_name` completes.
    """

    def __init__(self, repo: str) -> None:
        self.repo = repo
        self.api = HfApi(library_name="timm_asap", library_version=timm_asap.__version__)

    def sign_in(self) -> None:
        """See who the token stands for, and that it may write somewhere."""
        if get_token() is None:
            raise UserError(f"no token to publish {self.repo} with: sign in with `hf auth login`, or set HF_TOKEN")
        user, role = self._who_am_i()
        if role == "read":
            raise UserError(f"the token may only read: publishing {self.repo} needs one with the right to write")
        self._complete(user)

    def complete_name(self) -> None:
        """Put the user's own namespace before a name that has none."""
        if "/" not in self.repo:
            if get_token() is None:
                raise UserError(f"repository {self.repo!r}: expected user/name, or a token that tells the user")
            self._complete(self._who_am_i()[0])

    def _complete(self, user: str) -> None:
        if "/" not in self.repo:
            self.repo = f"{user}/{self.repo}"
            check_repo(self.repo)

    def _who_am_i(self) -> tuple[str, str | None]:
        """The user's name, and what the token may do where the Hub says so."""
        answer = self._ask(self.api.whoami)
        name = answer.get("name") if isinstance(answer, dict) else None
        if not isinstance(name, str) or not name:
            refuse_answer(self.repo, "expected the name of the token's user")
        role: object = answer
        for key in ("auth", "accessToken", "role"):
            role = role.get(key) if isinstance(role, dict) else None
        return name, role if isinstance(role, str) else None

    def find(self, revision: str) -> ModelInfo | None:
        """The state of a branch; that of main where there is no such branch yet, None where there is no repository."""

        def look() -> ModelInfo | None:
            try:
                return self.api.model_info(self.repo, revision=revision)
            except RevisionNotFoundError:
                return self.api.model_info(self.repo)
            except RepositoryNotFoundError:
                return None

        info = self._ask(look, revision)
        return info if info is None else self._checked(info)

    def prepare(self, *, private: bool, revision: str, create_pr: bool) -> ModelInfo:
        """Make the repository and the branch if need be, and return the branch's state."""
        if not create_pr:
            self._create(private)

        def look() -> ModelInfo | None:
            try:
                return self.api.model_info(self.repo, revision=revision)
            except RevisionNotFoundError:
                return None

        info = self._ask(look, revision)
        if info is None:
            self._ask(lambda: self.api.create_branch(self.repo, branch=revision, exist_ok=True), revision)
            info = self._ask(lambda: self.api.model_info(self.repo, revision=revision), revision)
        elif not self._can_move(revision):
            raise UserError(f"{revision!r} of {self.repo} is a tag or a commit: expected a branch")
        return self._checked(info)

    def _create(self, private: bool) -> None:
        """Make the repository unless it is there; an answer that cannot be read may have been a success."""
        try:
            self._ask(lambda: self.api.create_repo(self.repo, private=private, exist_ok=True))
        except UserError:
            try:
                is_there = self.find("main") is not None
            except UserError:
                is_there = False  # the first error says more
            if not is_there:
                raise

    def _checked(self, info: ModelInfo) -> ModelInfo:
        sha = info.sha
        if not isinstance(sha, str) or not _HASH.fullmatch(sha):
            refuse_answer(self.repo, "expected the hash of its newest commit")
        return info

    def _can_move(self, revision: str) -> bool:
        if revision == "main" or revision.startswith("refs/pr/"):
            return True
        branches = self._ask(lambda: self.api.list_repo_refs(self.repo).branches, revision)
        return any(branch.name == revision for branch in branches)

    def files(self, revision: str | None) -> list[RepoFile]:
        """The files at a commit or reference, each with its digest."""

        def look() -> list[RepoFile]:
            tree = self.api.list_repo_tree(self.repo, recursive=True, revision=revision)
            return [item for item in tree if isinstance(item, RepoFile)]

        found = self._ask(look, revision, tries=1)  # the client repeats what comes in pages
        for item in found:
            digest = item.lfs.sha256 if item.lfs else item.blob_id
            if not (isinstance(item.path, str) and isinstance(digest, str) and _HASH.fullmatch(digest)):
                refuse_answer(self.repo, "expected the path and the digest of each file")
        return found

    def read_text(self, file: RepoFile, revision: str) -> str | None:
        """A text file as it is at a commit; None if it is none, or has over a megabyte."""
        if not isinstance(file.size, int) or file.size > 1_000_000:
            return None
        with tempfile.TemporaryDirectory(prefix="timm_asap_read_") as cache:
            path = self._ask(
                lambda: self.api.hf_hub_download(self.repo, file.path, revision=revision, cache_dir=cache), revision
            )
            try:
                return Path(path).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                return None

    def open_pull_requests(self) -> list[Discussion]:
        """Newest first, as the Hub lists them."""

        def look() -> list[Discussion]:
            return list(
                self.api.get_repo_discussions(self.repo, discussion_type="pull_request", discussion_status="open")
            )

        return self._ask(look, tries=1)

    def commit(
        self, bundle: Bundle, difference: Difference, title: str, revision: str, parent: str | None, create_pr: bool
    ) -> CommitInfo:
        """Commit what differs, provided that the branch is still at `parent`."""
        operations = [CommitOperationAdd(name, str(bundle.folder / name)) for name in difference.to_send]
        size = sum((bundle.folder / name).stat().st_size for name in difference.to_send)

        def send() -> CommitInfo:
            # by itself the client leaves out, without a word, what a .gitignore of the repository names
            self.api.preupload_lfs_files(
                self.repo, operations, revision=revision, create_pr=create_pr, gitignore_content=""
            )
            if ignored := [item.path_in_repo for item in operations if getattr(item, "_should_ignore", False)]:
                refuse_answer(self.repo, f"it would leave out {', '.join(ignored)}")
            return self.api.create_commit(
                self.repo,
                operations,
                commit_message=title,
                revision=revision,
                parent_commit=parent,
                create_pr=create_pr,
            )

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Warnings while validating metadata", category=UserWarning)
            # what is uploaded is repeated by the client itself; a commit must not be, it might be made twice
            made = ask(send, self.repo, revision, tries=1, wait_s=size / SLOWEST_BYTES_PER_S)
        if not isinstance(made.oid, str) or not _HASH.fullmatch(made.oid):
            refuse_answer(self.repo, "expected the hash of the commit; it may have been made")
        return made

    def url(self, revision: str) -> str:
        """Where people look at a revision."""
        if revision.startswith("refs/pr/"):
            return f"{self.api.endpoint}/{self.repo}/discussions/{revision.removeprefix('refs/pr/')}"
        return f"{self.api.endpoint}/{self.repo}" + ("" if revision == "main" else f"/tree/{revision}")

    def _ask(self, call: Callable[[], T], revision: str | None = None, tries: int = TRIES) -> T:
        return ask(call, self.repo, revision, tries=tries)
