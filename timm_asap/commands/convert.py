"""`timm-asap convert ARCH`: what conversion does to an architecture, layer by layer, and the converted network."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from timm_asap._io import disk_errors
from timm_asap.command_line import STEM, Boundary, Folder, Layout, Stem, Window, metavar, parse
from timm_asap.errors import UserError, unknown_name
from timm_asap.screen import Column, ScreenTable, print_text, screen

if TYPE_CHECKING:
    from timm_asap.conversion.report import ConversionReport, DownsamplingLayer
    from timm_asap.zoo import AsapOptions


@dataclass(frozen=True)
class ConvertOptions:
    """Show what conversion does to every strided layer of an architecture and what it costs, and save the result."""

    sections: ClassVar[dict[str, str]] = {"layout": "conversion", "input_size": "conversion"}

    architecture: tyro.conf.Positional[Annotated[str, metavar("ARCHITECTURE")]]
    """Name of a plain architecture of timm, or of its twin; a pretrained tag chooses the weights to save."""
    dry_run: bool = False
    """Show the table, and write nothing."""
    output: Folder | None = None
    """Folder for the converted network with its upstream weights, as timm loads it: model.safetensors, config.json."""
    layout: Layout = "preserve"
    """preserve puts a low-pass before each strided layer, paper puts the pool in its place."""
    window: Window = "asap"
    """Weight of the frequencies that are kept: as in the released ASAP, a Hamming window over the kept band, or 1."""
    boundary: Boundary = "circular"
    """How an image goes on beyond its edges."""
    stem: Stem = "auto"
    """Whether the first layer of the image is converted; auto: where its stride is 2 or 3."""
    input_size: Annotated[tuple[int, int, int] | None, metavar("C H W")] = None
    """Channels, height and width of an image; by default those of the architecture."""


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    options = parse(ConvertOptions, argv, prog="timm-asap convert")
    if not options.dry_run and options.output is None:
        raise UserError("expected --dry-run, to show what conversion does, or --output FOLDER, to save the result")
    # torch and timm: not for the help
    from timm.models import split_model_name_tag

    from timm_asap._types import present, pretrained_cfg_of
    from timm_asap.zoo import AsapOptions, is_twin, plain_name
    from timm_asap.zoo.summary import dry_run

    stem = STEM[options.stem]
    asap = AsapOptions(options.window, options.boundary, options.layout, stem)
    folder = None if options.dry_run or options.output is None else _empty_folder(options.output)
    plain = plain_name(options.architecture) if is_twin(options.architecture) else options.architecture
    name = split_model_name_tag(plain)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # every note is a line of its own below the table
        model, report = dry_run(
            name,
            options.input_size,
            layout=options.layout,
            window=options.window,
            boundary=options.boundary,
            stem=stem,
        )
    size = options.input_size or tuple(pretrained_cfg_of(model)["input_size"])
    console = screen()
    macs, added_macs = present(report.macs, "size of an image"), present(report.added_macs, "size of an image")
    total = f"{macs / 1e9:.2f} GMACs, {added_macs / 1e6:.1f} M more"
    percent = 100 * added_macs / macs
    console.print(f"{name} at {'x'.join(map(str, size))}: {total} ({percent:.1f} %)")
    _table(report).print(console)
    for site in report.sites:
        if site.note:
            print_text(f"warning: {site.name}: {site.note}", console)
    print_text(_completeness(report), console)
    if folder is not None:
        _save(options.architecture, plain, asap, folder)
        print(f'import timm, timm_asap; model = timm.create_model("local-dir:{folder}", pretrained=True)')


def _empty_folder(output: str) -> Path:
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {folder} is there already: expected a new or an empty folder")
    return folder


def _save(named: str, plain: str, asap: AsapOptions, folder: Path) -> None:
    """Build the twin with the weights that were named and write it; nothing is left behind where that fails."""
    from timm.models import get_pretrained_cfg, split_model_name_tag

    from timm_asap._timm import save_for_hf
    from timm_asap._types import present
    from timm_asap.zoo import check_model_name, create_model, is_shipped, is_twin, twin_names
    from timm_asap.zoo.asap_twins import SUFFIX
    from timm_asap.zoo.model_config import name_import

    architecture, tag = split_model_name_tag(plain)
    twin = f"{architecture}{SUFFIX}" + (f".{tag}" if tag else "")
    if not is_twin(twin):
        raise UserError(unknown_name("twin", twin, twin_names()))
    overlay = None
    if is_shipped(named) and not is_twin(named):  # the tag of the twin means weights of its own
        cfg = present(get_pretrained_cfg(named), "configuration").to_dict()
        overlay = {key: value for key, value in cfg.items() if key not in ("architecture", "tag")}
    check_model_name(named, pretrained=True)
    try:
        model = create_model(twin, plain, pretrained=True, pretrained_cfg_overlay=overlay, **asdict(asap))
    except UserError as error:
        raise UserError(f"the weights of {plain} are not available: {error}") from error
    with disk_errors(f"--output {folder} cannot be written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(f"--output {folder} cannot be written"), tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        save_for_hf(model, aside)
        config_file = Path(aside) / "config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        # transformers' TimmWrapperForImageClassification passes num_classes itself, and fails if it is here too.
        config["model_args"].pop("num_classes", None)
        name_import(config)
        config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for name in ("model.safetensors", "config.json"):
            os.replace(Path(aside) / name, folder / name)


def _table(report: ConversionReport) -> ScreenTable:
    table = ScreenTable(
        [
            Column("layer"),
            Column("was", wraps=True, drop=2),
            Column("becomes, or why it is left", wraps=True),
            Column("map", right=True, drop=1),
            Column("added MACs", right=True, drop=0),
        ]
    )
    for site in report.sites:
        table.add(
            site.name or "(root)",
            site.layer,
            site.becomes or f"{site.status}: {site.reason}",
            "x".join(map(str, site.input_size)) if site.input_size else "not run",
            _cost(site),
        )
    return table


def _completeness(report: ConversionReport) -> str:
    """What a forward pass showed besides the table."""
    if report.complete:
        text = "complete: nothing else downsamples in a forward pass of that size"
    else:
        text = f"incomplete: {len(report.unhandled)} operations downsample as before, and are not handled"
    if report.upsampling:
        text += f"; {len(report.upsampling)} upsample (timm_asap.convert: upsampling=True)"
    return text


def _cost(site: DownsamplingLayer) -> str:
    return "-" if site.added_macs is None else f"{site.added_macs / 1e6:.2f} M"
