"""`publish`: a run becomes one commit on the Hub, and is called published once it came back unharmed."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import timm_asap
from timm_asap._io import disk_errors, remove
from timm_asap._lock import locks_folder
from timm_asap.errors import UserError
from timm_asap.hub.bundle import Bundle, make_bundle
from timm_asap.hub.client_errors import one_line
from timm_asap.hub.difference import Difference, compare
from timm_asap.hub.names import check_repo
from timm_asap.hub.remote import Remote
from timm_asap.hub.verification import verify

__all__ = ["Published", "publish"]


@dataclass(frozen=True)
class Published:
    """What `publish` did.

    Args:
        repo: Full name of the repository.
        revision: The branch, or the reference of the pull request.
        commit: Hash of the commit that holds the files; None after a dry run.
        url: Where to look at it.
        private: Whether only its owners see the repository; None where a dry run found none.
        difference: What was, or would be, added and changed.
        folder: What would be sent, after a dry run; else None.
    """

    repo: str
    revision: str
    commit: str | None
    url: str
    private: bool | None
    difference: Difference
    folder: Path | None

    @property
    def load_line(self) -> str:
        """The line of Python that gives the model to anybody who may read the repository."""
        at = "" if self.revision == "main" else f"@{self.revision}"
        return f'import timm_asap; model = timm_asap.load("hf-hub:{self.repo}{at}")'


@locks_folder("timm-asap publish")
def publish(
    run: str | Path,
    repo: str,
    *,
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    message: str | None = None,
) -> Published:
    """Put a run on the Hugging Face Hub as a model of timm.

    One commit adds and replaces files, and never deletes what else the repository holds. It is refused if the branch
    moved meanwhile. Then everything is downloaded into a cache of its own and compared: each file by sha256, the model
    by its scores, bit for bit. Publishing the same run again changes nothing and only verifies.

    Args:
        run: A run folder with weights and evaluation.json.
        repo: `user/name`, or `name` in the user's own namespace; made if need be.
        private: Whether a repository that is made is private. One that is there stays as it is.
        revision: Branch to commit to; made from main if need be. By default main.
        create_pr: Propose the commit as a pull request instead.
        dry_run: Send nothing: leave what would be sent in RUN/publish.
        message: Title of the commit.

    Raises:
        UserError: If the run, the name or the token is not fit, the Hub refuses, the connection fails, or what came
            back is not what was sent. Running again goes on where it stopped.
    """
    run = Path(run)
    check_repo(repo)
    if create_pr and revision not in (None, "main"):
        raise UserError("a pull request is to main: give either a revision or create_pr")
    if dry_run:
        return _rehearse(run, repo, revision or "main")
    remote = Remote(repo)
    remote.complete_name()
    with tempfile.TemporaryDirectory(prefix="timm_asap_publish_") as folder:
        bundle = make_bundle(run, Path(folder), remote.repo)
        remote.sign_in()
        info = remote.prepare(private=private, revision=revision or "main", create_pr=create_pr)
        difference = compare(bundle, remote.files(info.sha))
        target, commit = revision or "main", info.sha
        if difference.to_send and create_pr and (proposed := _find_proposal(remote, bundle)):
            target = commit = proposed
        elif difference.to_send:
            title = message or f"Publish {run.resolve().name} with timm_asap {timm_asap.__version__}"
            made = remote.commit(bundle, difference, title, target, info.sha, create_pr)
            target, commit = made.pr_revision or target, made.oid
        verify(remote.api, remote.repo, target if target.startswith("refs/pr/") else commit, bundle)
    return Published(remote.repo, target, commit, remote.url(target), info.private, difference, None)


def _rehearse(run: Path, repo: str, revision: str) -> Published:
    with tempfile.TemporaryDirectory(prefix="timm_asap_publish_") as aside:
        remote = Remote(repo)
        remote.complete_name()
        bundle = make_bundle(run, Path(aside), remote.repo)
        folder = run / "publish"
        with disk_errors(f"{folder} cannot be written"):
            remove(folder)
            shutil.copytree(aside, folder)
        info = remote.find(revision)
        difference = compare(bundle, remote.files(info.sha) if info else [])
    private = info.private if info else None
    return Published(remote.repo, revision, None, remote.url(revision), private, difference, folder)


def _find_proposal(remote: Remote, bundle: Bundle) -> str | None:
    """The open pull request that proposes exactly this, from an earlier run."""
    with one_line(remote.repo):
        proposals = [p.git_reference for p in remote.open_pull_requests()]
    return next((ref for ref in proposals if not compare(bundle, remote.files(ref)).to_send), None)
