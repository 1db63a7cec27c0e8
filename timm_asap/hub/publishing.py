"""`publish`: a run becomes one commit on the Hub, and is called published once it came back unharmed.

After an upload, everything is downloaded again and has to be what was sent.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.hf_api import RepoFile

import timm_asap
from timm_asap._io import disk_errors, remove, sha256, write_text
from timm_asap._lock import locks_folder
from timm_asap.errors import UserError
from timm_asap.hub.bundle import CARD, Bundle, make_bundle
from timm_asap.hub.cards.user_sections import read_kept
from timm_asap.hub.checks import sample_logits
from timm_asap.hub.edits import (
    EditedOnHubError,
    Stamp,
    is_placeholder,
    merge_sections,
    outside_sections,
    show_difference,
)
from timm_asap.hub.remote import SLOWEST_BYTES_PER_S, Difference, Remote, compare, stated_digest
from timm_asap.zoo import load
from timm_asap.zoo.hub_client import TRIES, ask, check_repo, check_revision, timed_out

__all__ = ["Published", "publish", "verify"]


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


_ASIDE = "timm_asap_publish_"

_log = logging.getLogger(__name__)


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
        left_out: Files of the run's folder that are not sent, each with the reason.
        merged: User-edited sections of the card that were taken from the Hub.
        edited: What keeps a rehearsed publication from being made, as `EditedOnHubError` says it; else None.
        folder: What would be sent, after a dry run; else None.
    """

    repo: str
    revision: str
    commit: str | None
    url: str
    private: bool | None
    difference: Difference
    left_out: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    edited: EditedOnHubError | None = None
    folder: Path | None = None

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
    overwrite_card: bool = False,
    overwrite_files: bool = False,
) -> Published:
    """Publish a run as a model of timm.

    One commit adds and replaces files, and never deletes what else the repository holds. It is refused if the branch
    moved meanwhile. Then everything is downloaded into a cache of its own and compared: each file by sha256, the model
    by its scores, bit for bit. Publishing the same run again changes nothing and only verifies.

    What others changed on the Hub is not undone. The user-edited sections of the card there are merged with the run's.
    Anything else that is not as it was last published is a reason to send nothing, and to show the difference; a pull
    request is made all the same, since whoever merges it sees that difference.

    Args:
        run: A run folder with weights and evaluation.json.
        repo: `user/name`, or `name` in the user's own namespace; made if need be.
        private: Whether a repository that is made is private. One that is there stays as it is.
        revision: Branch to commit to; made from main if need be. By default main.
        create_pr: Propose the commit as a pull request instead.
        dry_run: Send nothing: leave what would be sent in RUN/publish.
        message: Title of the commit.
        overwrite_card: Replace the card on the Hub even if somebody changed it there.
        overwrite_files: Replace other files even so.

    Raises:
        EditedOnHubError: If something on the Hub would be undone; it holds the difference.
        UserError: If the run, the name or the token is not fit, the Hub refuses, the connection fails, or what came
            back is not what was sent. Running again goes on where it stopped.
    """
    run = Path(run)
    check_repo(repo)
    if revision is not None:
        check_revision(revision, "revision", "a branch")
    if create_pr and revision not in (None, "main"):
        raise UserError("a pull request is to main: give either a revision or create_pr")
    target = revision or "main"
    if dry_run:
        return _rehearse(run, repo, target, create_pr, overwrite_card, overwrite_files)
    remote = Remote(repo)
    remote.complete_name()
    with disk_errors(f"{run} cannot be published"), tempfile.TemporaryDirectory(prefix=_ASIDE) as folder:
        bundle = make_bundle(run, Path(folder), remote.repo)
        remote.sign_in()
        info = remote.prepare(private=private, revision=target, create_pr=create_pr)
        review = _Review(remote, bundle, info, overwrite_card, overwrite_files)
        if review.edited is not None and not create_pr:
            raise review.edited
        bundle, difference, commit = review.bundle, review.difference, str(info.sha)
        if difference.to_send and create_pr and (proposed := _find_proposal(remote, bundle)):
            target = commit = proposed
        elif difference.to_send:
            title = message or f"Publish {run.resolve().name} with timm_asap {timm_asap.__version__}"
            target, commit = _send(remote, bundle, difference, title, target, commit, create_pr)
        verify(remote.api, remote.repo, target if target.startswith("refs/pr/") else commit, bundle)
        write_text(run / CARD, bundle.card)
    return Published(
        repo=remote.repo,
        revision=target,
        commit=commit,
        url=remote.url(target),
        private=info.private,
        difference=difference,
        left_out=bundle.left_out,
        merged=review.merged,
    )


def _rehearse(
    run: Path, repo: str, revision: str, create_pr: bool, overwrite_card: bool, overwrite_files: bool
) -> Published:
    remote = Remote(repo)
    remote.complete_name()
    with disk_errors(f"{run}/publish cannot be written"), tempfile.TemporaryDirectory(prefix=_ASIDE) as aside:
        bundle = make_bundle(run, Path(aside), remote.repo)
        info = remote.find(revision)
        review = _Review(remote, bundle, info, overwrite_card, overwrite_files)
        folder = run / "publish"
        if folder.is_symlink():
            raise UserError(f"{folder} is a link: expected a folder, or nothing, where a dry run writes")
        complete = run / f".publish.{os.getpid()}.aside"
        try:
            with disk_errors(f"{folder} cannot be written"):
                shutil.copytree(aside, complete)
                remove(folder)
                complete.rename(folder)
        finally:
            remove(complete)
    return Published(
        repo=remote.repo,
        revision=revision,
        commit=None,
        url=remote.url(revision),
        private=info.private if info else None,
        difference=review.difference,
        left_out=bundle.left_out,
        merged=review.merged,
        edited=None if create_pr else review.edited,
        folder=folder,
    )


class _Review:
    """What is to be sent, seen beside what is there.

    Args:
        remote: The repository.
        bundle: What the run would send.
        info: The state of the branch; None where there is no repository.
        overwrite_card: Whether the card there may be replaced whoever changed it.
        overwrite_files: Likewise every other file.

    Attributes:
        bundle: The same, its card with the sections that were edited on the Hub.
        difference: What sending it changes.
        merged: The names of these sections.
        edited: Why it must not be sent; None if it may be.
    """

    def __init__(
        self, remote: Remote, bundle: Bundle, info: ModelInfo | None, overwrite_card: bool, overwrite_files: bool
    ) -> None:
        there = {file.path: file for file in remote.files(info.sha)} if info else {}
        self.bundle, self.merged = bundle, ()
        self.difference = compare(bundle, there.values())
        lost: dict[str, str] = {}
        flags: list[str] = []
        card = None
        if info and CARD in there and self.difference.changed:
            card = remote.read_text(there[CARD], str(info.sha))
        if CARD in self.difference.changed and not overwrite_card:
            why = "README.md cannot be read as text" if card is None else self._merge(card)
            self.difference = compare(self.bundle, there.values())
            if why:
                ours = self.bundle.card
                lost[why] = f"README.md: {why}" if card is None else show_difference(CARD, card, ours)
                flags.append("--overwrite-card")
        # what this folder published is ours wherever it stands
        stamps = [stamp for text in (card, bundle.card_before) if text and (stamp := Stamp.read(text))]
        if not overwrite_files and (others := self._changed_by_others(stamps, there.values())):
            for file in others:
                lost[file.path] = _difference_of(remote, self.bundle, file, str(info.sha if info else None))
            flags.append("--overwrite-files")
        self.edited = None
        if lost:
            self.edited = EditedOnHubError(_refusal(remote.repo, bundle.run, lost, flags), "\n".join(lost.values()))

    def _merge(self, theirs: str) -> str | None:
        """Take over the sections that were edited there; what else was, or is edited on both sides."""
        ours = self.bundle.card
        if is_placeholder(theirs, ours):
            return None
        base = Stamp.read(theirs)
        try:
            outside, their_sections = outside_sections(theirs), read_kept(theirs)
        except UserError:
            return "README.md (its marks keep and /keep do not match)"
        if base is None or outside != base.card:
            return "README.md (outside its parts between keep and /keep)"
        our_sections = read_kept(ours)
        merged, both = merge_sections(our_sections, their_sections, base)
        if both:
            return f"README.md ({', '.join(both)}, which the run's card changed, too)"
        if merged != our_sections:
            names = {**our_sections, **merged}
            self.merged = tuple(name for name in names if merged.get(name) != our_sections.get(name))
            self.bundle = self.bundle.with_sections(merged)
        return None

    def _changed_by_others(self, stamps: Sequence[Stamp], there: Iterable[RepoFile]) -> list[RepoFile]:
        """Files that would be replaced and are not as they were published; without a stamp that is not known."""
        changed = [file for file in there if file.path in self.difference.changed and file.path != CARD]
        return [file for file in changed if not any(stamp.knows(file.path, stated_digest(file)) for stamp in stamps)]


def _refusal(repo: str, run: Path, lost: dict[str, str], flags: list[str]) -> str:
    advice = [f"{flag} replaces what is there" if flag == flags[0] else flag for flag in flags]
    keep = f"copy what is to stay between keep and /keep in {run / CARD}, or " if flags[0] == "--overwrite-card" else ""
    return (
        f"{repo}: changed on the Hub since it was last published from a run, or never published from one: "
        f"{', '.join(lost)}; nothing was sent; {keep}{' and '.join(advice)}"
    )


def _difference_of(remote: Remote, bundle: Bundle, file: RepoFile, revision: str) -> str:
    ours = bundle.folder / file.path
    theirs = None if file.path.endswith((".safetensors", ".png")) else remote.read_text(file, revision)
    if theirs is None:
        return (
            f"{file.path}: {file.size:,} bytes on the Hub ({stated_digest(file)[:12]}...), "
            f"{ours.stat().st_size:,} of the run ({bundle.sha256[file.path][:12]}...)"
        )
    return show_difference(file.path, theirs, ours.read_text(encoding="utf-8", errors="replace"))


def _send(
    remote: Remote, bundle: Bundle, difference: Difference, title: str, target: str, parent: str, create_pr: bool
) -> tuple[str, str]:
    """Commit; where the commit gets no answer in time, see whether it was made before it is sent again.

    Returns:
        The branch or the reference of the pull request, and the commit.
    """
    for attempt in range(1, TRIES + 1):
        try:
            made = remote.commit(bundle, difference, title, target, parent, create_pr)
        except UserError as error:
            # an upload that gets no answer has been repeated by the client
            unanswered = timed_out(error) or ""
            if attempt == TRIES or not unanswered.endswith(("/validate-yaml", f"/commit/{target}")):
                raise
            _log.warning("the commit got no answer; looking whether it was made, %d of %d", attempt + 1, TRIES)
        else:
            return made.pr_revision or target, made.oid
        if create_pr:
            if proposed := _find_proposal(remote, bundle):
                return proposed, proposed
        elif (info := remote.find(target)) and not compare(bundle, remote.files(info.sha)).to_send:
            return target, str(info.sha)
    raise AssertionError("unreachable")


def _find_proposal(remote: Remote, bundle: Bundle) -> str | None:
    """The open pull request that proposes exactly this, from an earlier run."""
    proposals = [proposal.git_reference for proposal in remote.open_pull_requests()]
    return next((ref for ref in proposals if ref and not compare(bundle, remote.files(ref)).to_send), None)
