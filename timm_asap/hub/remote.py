"""A repository on the Hub, as publishing sees it; what the client raises comes out as one line."""

from __future__ import annotations

import warnings

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelInfo, get_token
from huggingface_hub.community import Discussion
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

import timm_asap
from timm_asap.errors import UserError
from timm_asap.hub.bundle import Bundle
from timm_asap.hub.difference import Difference
from timm_asap.zoo.hub_client import one_line

__all__ = ["Remote"]


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
        with one_line(self.repo):
            user = self.api.whoami()
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise UserError(f"the token may only read: publishing {self.repo} needs one with the right to write")
        if "/" not in self.repo:
            self.repo = f"{user['name']}/{self.repo}"

    def complete_name(self) -> None:
        """Put the user's own namespace before a name that has none."""
        if "/" not in self.repo:
            if get_token() is None:
                raise UserError(f"repository {self.repo!r}: expected user/name, or a token that tells the user")
            with one_line(self.repo):
                self.repo = f"{self.api.whoami()['name']}/{self.repo}"

    def find(self, revision: str) -> ModelInfo | None:
        """The state of a branch; that of main where there is no such branch yet, None where there is no repository."""
        with one_line(self.repo, revision):
            try:
                return self.api.model_info(self.repo, revision=revision)
            except RevisionNotFoundError:
                return self.api.model_info(self.repo)
            except RepositoryNotFoundError:
                return None

    def prepare(self, *, private: bool, revision: str, create_pr: bool) -> ModelInfo:
        """Make the repository and the branch if need be, and return the branch's state."""
        with one_line(self.repo, revision):
            if not create_pr:
                self.api.create_repo(self.repo, private=private, exist_ok=True)
            try:
                info = self.api.model_info(self.repo, revision=revision)
            except RevisionNotFoundError:
                self.api.create_branch(self.repo, branch=revision, exist_ok=True)
                return self.api.model_info(self.repo, revision=revision)
            if not self._can_move(revision):
                raise UserError(f"{revision!r} of {self.repo} is a tag or a commit: expected a branch")
            return info

    def _can_move(self, revision: str) -> bool:
        if revision == "main" or revision.startswith("refs/pr/"):
            return True
        return revision in {branch.name for branch in self.api.list_repo_refs(self.repo).branches}

    def files(self, revision: str | None) -> list[RepoFile]:
        """The files at a commit or reference."""
        with one_line(self.repo, revision):
            tree = self.api.list_repo_tree(self.repo, recursive=True, revision=revision)
            return [item for item in tree if isinstance(item, RepoFile)]

    def open_pull_requests(self) -> list[Discussion]:
        """Newest first, as the Hub lists them."""
        found = self.api.get_repo_discussions(self.repo, discussion_type="pull_request", discussion_status="open")
        return list(found)

    def commit(
        self, bundle: Bundle, difference: Difference, title: str, revision: str, parent: str | None, create_pr: bool
    ) -> CommitInfo:
        """Commit what differs, provided that the branch is still at `parent`."""
        operations = [CommitOperationAdd(name, str(bundle.folder / name)) for name in difference.to_send]
        with one_line(self.repo, revision), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Warnings while validating metadata", category=UserWarning)
            return self.api.create_commit(
                self.repo,
                operations,
                commit_message=title,
                revision=revision,
                parent_commit=parent,
                create_pr=create_pr,
            )

    def url(self, revision: str) -> str:
        """Where people look at a revision."""
        if revision.startswith("refs/pr/"):
            return f"{self.api.endpoint}/{self.repo}/discussions/{revision.removeprefix('refs/pr/')}"
        return f"{self.api.endpoint}/{self.repo}" + ("" if revision == "main" else f"/tree/{revision}")
