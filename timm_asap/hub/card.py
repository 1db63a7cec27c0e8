"""The model card: rendered from the records of a run, so that every number in it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import metadata as metadata_of
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import ModelCard
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from timm_asap._io import write_text
from timm_asap._lock import locks_folder
from timm_asap.errors import UserError, first_line
from timm_asap.hub.cards import results
from timm_asap.hub.cards.base_model import Origin
from timm_asap.hub.cards.comparison import COMPARISON, make_comparison
from timm_asap.hub.cards.limitations import limits
from timm_asap.hub.cards.metadata import License, choose_license, citations, metadata, of_data, states_license
from timm_asap.hub.cards.privacy import refuse_token
from timm_asap.hub.cards.records import RunRecords, read_records
from timm_asap.hub.cards.training import adaptation_lines, healing_lines, training_lines
from timm_asap.hub.cards.user_sections import MARK, PLACES, is_generated, read_kept, wrap
from timm_asap.hub.checks import check_card
from timm_asap.hub.edits import carry_stamp
from timm_asap.zoo.hub_client import check_repo
from timm_asap.zoo.shipped import model_cards

__all__ = ["write_card"]


@locks_folder("timm-asap card")
def write_card(
    run_folder: Path | str,
    license: str | None = None,
    *,
    against: Path | str | None = None,
    repo: str | None = None,
    shipped_as: str | None = None,
    output: Path | str | None = None,
    overwrite: bool = False,
    kept: Mapping[str, str] | None = None,
    figure: str | None = None,
) -> Path:
    """Write the card of a run: what the model is, how it was made, what it reached, how to use it.

    What stands between `<!-- keep: NAME -->` and `<!-- /keep -->` in the card so far stays, and so does the license in
    its front matter, unless `license` or the weights' origin says otherwise.

    Args:
        run_folder: A folder that `train.py` or `timm-asap heal` wrote.
        license: License of the weights, as an identifier of the Hugging Face Hub. By default that of the weights that
            the run started from, and mit for weights trained from random ones.
        against: evaluation.json of a model to compare with, as the plain twin, or the folder that holds it. The
            comparison stays in the run folder as comparison.json, and in later cards.
        repo: Repository on the Hub, for the lines that load the model; by default they load the run folder.
        shipped_as: Name in timm, for weights that come with this package: the lines then load that.
        output: The card; by default README.md in the run folder.
        overwrite: Replace a card that was written by hand.
        kept: User-edited sections by name, instead of those of the card so far.
        figure: Address of the picture that a reader sees first, relative to the card; by default that of the run.

    Returns:
        The path of the card.

    Raises:
        UserError: If a record of the run is missing or holds NaN, the license is not that of the origin, the card was
            written by hand or its markers do not match, or a token would reach the card. Nothing is written then.
    """
    folder = Path(run_folder)
    path = folder / "README.md" if output is None else Path(output)
    if repo is not None:
        check_repo(repo)
    previous = _previous(path, folder, overwrite)
    sections = read_kept(previous.text) if kept is None else kept
    try:
        records = read_records(folder, with_comparison=against is None)
        if against is not None:
            records = _compare(records, Path(against))
        if path.resolve().parent != folder.resolve():
            records = replace(records, plots=())  # a card shows them by relative paths
        weights_license = choose_license(records.origin, license, _license_so_far(previous, records.origin))
        text = _render(records, weights_license, sections, repo, shipped_as, figure)
    except (KeyError, UndefinedError) as error:
        raise UserError(f"{folder}: its records lack what the card shows: {error}; make them anew") from error
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, IndexError) as error:  # of records that somebody changed
        raise UserError(
            f"{folder}: its records hold something else than the card shows ({first_line(error)}): make them anew"
        ) from error
    text = carry_stamp(previous.text, text)
    check_card(text)
    refuse_token(path.name, text)
    if against is not None and records.comparison is not None:
        write_text(folder / COMPARISON, _as_json(records.comparison))
    write_text(path, text)
    return path


class _Card(NamedTuple):
    path: Path
    text: str


def _previous(path: Path, folder: Path, overwrite: bool) -> _Card:
    """The generated card whose user-edited sections stay: the one to replace, or else that of the run."""
    if path.is_dir():
        raise UserError(f"--output {path} is a folder: expected a file, such as card.md")
    for card in (path, folder / "README.md"):
        if not card.is_file():
            continue
        text = card.read_text(encoding="utf-8", errors="replace")
        if is_generated(text):
            return _Card(card, text)
        if card == path and not overwrite:
            raise UserError(
                f"{path} was written by hand: --overwrite replaces it, --output FILE writes the card elsewhere"
            )
    return _Card(path, "")


def _license_so_far(previous: _Card, origin: Origin | None) -> str | None:
    """What a card states, unless it was made before it was known that the weights come from elsewhere."""
    if not previous.text or (origin is not None and f"started from {origin}" not in previous.text):
        return None
    try:
        data: Any = ModelCard(previous.text, ignore_metadata_errors=True).data
        stated = data.license
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 2}"
        what = getattr(error, "problem", None) or first_line(error)
        raise UserError(
            f"{previous.path}: its metadata cannot be read as YAML ({what}{where}): put that right, or delete "
            "the lines between the two '---'"
        ) from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{previous.path}: its metadata are not those of a model card ({first_line(error)}): put that right, or "
            "delete the lines between the two '---'"
        ) from error
    if stated is not None and not isinstance(stated, str):
        raise UserError(f"{previous.path}: its license: expected an identifier such as mit, got {stated!r}")
    return stated


def _compare(records: RunRecords, against: Path) -> RunRecords:
    if records.evaluation is None:
        raise UserError(
            f"{records.folder} has no evaluation of its weights to compare: `timm-asap evaluate {records.folder} "
            "--dataset ...` first"
        )
    return replace(records, comparison=make_comparison(against, records.evaluation))


def _as_json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _render(
    records: RunRecords,
    license: License,
    kept: Mapping[str, str],
    repo: str | None,
    shipped_as: str | None,
    figure: str | None,
) -> str:
    run = records.shown_folder
    source = shipped_as or (f"hf-hub:{repo}" if repo else None)
    return (
        _templates()
        .get_template("card.md.jinja")
        .render(
            metadata=metadata(records, license).to_yaml(line_break="\n"),
            mark=MARK,
            run=records,
            model=records.model,
            license=license,
            limits=limits(records, repo),
            training=training_lines(records),
            healing=healing_lines(records),
            adaptation=adaptation_lines(records),
            citations=citations(records),
            cites_data=of_data(records) is not None,
            data_are_licensed=states_license(records.data["source"]),
            found={
                measure: results.of_measure(records, measure)
                for measure in ("corruption", "attack", "shift", "aliasing")
            },
            tables={
                "clean": results.clean_table,
                "corruption": results.corruption_table,
                "attack": results.attack_table,
                "shift": results.shift_table,
                "aliasing": results.aliasing_table,
                "comparison": results.comparison_table,
                "headline": results.headline_table,
                "left_out": results.left_out_table,
            },
            clean_of_attacked=results.clean_accuracy_of_attacked(records),
            source=source or f"local-dir:{run}",
            place=repo or run,
            export_name=source or run,
            figure=figure or records.figure,
            installation=_installation(),
            framed=any(records.data.get("frame", ())),
            repo=repo,
            shipped_as=shipped_as,
            places={name: wrap(name, kept.get(name)) for name in PLACES},
            others=[wrap(name, text) for name, text in kept.items() if name not in PLACES],
        )
    )


def _installation() -> str:
    """A command that installs this package from its source, as its metadata name it."""
    try:
        about = metadata_of("timm_asap")
    except PackageNotFoundError:
        return "pip install ."
    for entry in about.get_all("Project-URL") or ():
        label, _, address = entry.partition(", ")
        if label.lower() in ("repository", "source", "source code"):
            return f"pip install 'timm_asap @ git+{address}'"
    return "pip install ."


def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(model_cards() / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the card is Markdown
    )
