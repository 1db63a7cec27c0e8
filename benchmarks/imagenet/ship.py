"""Puts an adapted network into the package: `python -m benchmarks.imagenet.ship RUN`.

Kernels are stored in half precision, which halves the file; statistics, scales and biases keep single precision. The
fidelity of what is shipped is measured by `python -m benchmarks.imagenet --adapted NAME`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import sklearn.datasets
import timm
import torch
import tyro
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.imagenet.bed import KNOWN
from timm_asap._io import write_text
from timm_asap.errors import UserError
from timm_asap.healing.adapt_plan import imagenet_names
from timm_asap.hub import write_card
from timm_asap.training.run_folder import ADAPTATION
from timm_asap.zoo.shipped import WEIGHTS, model_cards

DATA = Path(__file__).parents[2] / "tests" / "goldens"
LOGITS = DATA / "adapted_lite0_logits.safetensors"
CARDS = model_cards()


@dataclass(frozen=True)
class Options:
    """Put an adapted network into the package, with its card."""

    run: tyro.conf.Positional[Path]
    """Run folder of `timm-asap adapt`."""
    tag: str = "adapted_in1k"
    """Tag of the weights in timm."""
    license: str = "apache-2.0"
    """License of the weights that it started from."""


def main() -> None:
    """Copy the weights and their configuration, and write the card."""
    options = tyro.cli(Options)
    if not (options.run / ADAPTATION).is_file():
        raise UserError(f"{options.run} holds no adaptation: expected what timm-asap adapt wrote")
    adaptation = json.loads((options.run / ADAPTATION).read_text(encoding="utf-8"))
    config = json.loads((options.run / "config.json").read_text(encoding="utf-8"))
    name = f"{config['architecture']}.{options.tag}"
    state = load_file(options.run / "model.safetensors")
    save_file({key: _smaller(value) for key, value in state.items()}, WEIGHTS / f"{name}.safetensors")
    config |= {"license": options.license, "adapted_from": adaptation["teacher"].rpartition(":")[2]}
    write_text(WEIGHTS / f"{name}.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    record_logits(name)
    card = write_card(options.run, shipped_as=name, output=CARDS / f"{name}.md", overwrite=True)
    print(f"{name}: {(WEIGHTS / f'{name}.safetensors').stat().st_size / 1e6:.1f} MB, card {card.name}")


def record_logits(name: str) -> None:
    """Write what the shipped weights give for the four known pictures, which a test compares with."""
    cfg = timm.models.model_entrypoint(name.partition(".")[0])
    model = cfg(pretrained=True, pretrained_cfg_overlay={"file": str(WEIGHTS / f"{name}.safetensors")}).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    paths = [place / f"{Path(file).stem}.jpg" for file, place in known_places().items()]
    with torch.no_grad():
        logits = model(torch.stack([transform(Image.open(path).convert("RGB")) for path in paths]))
    save_file({"logits": logits}, LOGITS)
    print(dict(zip(KNOWN, (imagenet_names(model)[i] for i in logits.argmax(dim=1).tolist()), strict=True)))


def known_places() -> dict[str, Path]:
    """Folders of the four known pictures: scikit-learn's own, and reduced copies of scikit-image's (CC0)."""
    bundled = Path(sklearn.datasets.__file__).parent / "images"
    return {"china.jpg": bundled, "flower.jpg": bundled, "coffee.png": DATA, "camera.png": DATA}


def _smaller(value: torch.Tensor) -> torch.Tensor:
    """Kernels and matrices in half precision."""
    return value.half() if value.is_floating_point() and value.ndim > 1 else value


if __name__ == "__main__":
    main()
