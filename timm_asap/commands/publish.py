"""`timm-asap publish RUN --repo NAME`: puts a run on the Hugging Face Hub, and sees that it came there unharmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from timm_asap.command_line import Folder, Name, metavar, parse
from timm_asap.text import as_text

if TYPE_CHECKING:
    from timm_asap.hub.publishing import Published


@dataclass(frozen=True)
class PublishOptions:
    """Publish a run as a model of timm: one commit with weights, configuration, card, plots, evaluation and recipe.

    Afterwards everything is downloaded again and compared with what was sent. Running again changes nothing.
    """

    run: tyro.conf.Positional[Folder]
    """A run folder that was evaluated."""
    repo: Annotated[str, metavar("USER/NAME")]
    """Repository on the Hub: USER/NAME, or NAME in your own namespace; made if need be."""
    public: bool = False
    """Let everybody see a repository that is made here; by default only its owners do."""
    revision: Name | None = None
    """Branch to commit to, made from main if need be; by default main."""
    create_pr: bool = False
    """Propose the commit as a pull request."""
    dry_run: bool = False
    """Send nothing: write what would be sent to RUN/publish, and print what it would change on the Hub."""
    message: str | None = None
    """Title of the commit."""
    overwrite_card: bool = False
    """Replace the card on the Hub even if somebody changed it there; its parts between keep and /keep are lost, too."""
    overwrite_files: bool = False
    """Replace the other files on the Hub even if somebody changed them there."""


def main(argv: Sequence[str]) -> None:
    """Publish, and say what changed."""
    options = parse(PublishOptions, argv, prog="timm-asap publish")
    # torch and timm: not for the help
    from timm_asap.hub.bundle import CARD
    from timm_asap.hub.edits import EditedOnHubError
    from timm_asap.hub.publishing import publish

    try:
        done = publish(
            options.run,
            options.repo,
            private=not options.public,
            revision=options.revision,
            create_pr=options.create_pr,
            dry_run=options.dry_run,
            message=options.message,
            overwrite_card=options.overwrite_card,
            overwrite_files=options.overwrite_files,
        )
    except EditedOnHubError as error:
        print(error.difference)
        raise
    print(done.difference)
    for path in done.left_out:
        print(f"left out  {as_text(path)}")
    if done.merged:
        sections = ", ".join(map(as_text, done.merged))
        print(f"merged    {CARD}: {sections} as edited on the Hub; {options.run}/{CARD} has it now, too")
    if options.dry_run:
        if done.edited is not None:
            print(f"{done.edited.difference}\npublishing would be refused: {done.edited}")
        print(f"nothing was sent; {done.folder} holds what would go to {done.url}")
        return
    _tell(done, public_wanted=options.public)


def _tell(done: Published, public_wanted: bool) -> None:
    sent, there = len(done.difference.to_send), len(done.difference.unchanged)
    what = f"{sent} files sent, {there} were there" if sent else f"nothing to send, all {there} files were there"
    print(f"{what}; downloaded again, every sha256 and the model's scores are those of the run")
    seen_by = "private" if done.private else "public"
    print(f"published ({seen_by}): {done.url}")
    if done.private == public_wanted:
        print(f"the repository was {seen_by} before and stays so: its settings on the Hub change that")
    print(done.load_line)
