"""How long a pass and a training step take with each way of downsampling: `python -m benchmarks.study.speed`.

All variants in one process, interleaved, in float32 and channels_last, as the study measures them. Writes
`benchmarks/results/study_speed.cpu.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
import tyro

from benchmarks.common import RESULTS, as_json, interleave, print_table, store
from benchmarks.markdown import table
from benchmarks.study import networks  # noqa: F401 (registers the rivals)
from benchmarks.study.plan import VARIANTS


@dataclass(frozen=True)
class Options:
    """Time every variant of the study."""

    rounds: int = 15
    """How many times each is timed."""
    batch_size: int = 128
    """Images of a pass."""


def main() -> None:
    """Measure and write."""
    options = tyro.cli(Options)
    device = torch.device("cpu")
    tables = {}
    for call in ("inference", "training step"):
        contenders = {name: _call(name, call, options.batch_size) for name in VARIANTS}
        tables[call] = as_json(interleave(contenders, "plain", device, options.rounds))
        print_table(call, "plain", tables[call])
    print(store("study_speed", device, {"batch_size": options.batch_size, "rounds": options.rounds, "tables": tables}))


def _call(name: str, call: str, batch_size: int) -> Callable[[], Any]:
    variant = VARIANTS[name]
    asap = {key: value for key, value in variant.settings.items() if key.startswith("asap_")}
    model = timm.create_model(variant.model, in_chans=1, **asap).to(memory_format=torch.channels_last)
    images = torch.rand(batch_size, 1, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch_size,))

    def infer() -> None:
        with torch.inference_mode():
            model(images)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        model.zero_grad()

    model.train(call != "inference")
    return infer if call == "inference" else step


def speed_table() -> str:
    """The record as Markdown: median time against the plain stride, and the smallest and largest of the rounds."""
    record = json.loads((RESULTS / "study_speed.cpu.json").read_text(encoding="utf-8"))
    rows = []
    for name, variant in VARIANTS.items():
        timings = [record["tables"][call][name] for call in record["tables"]]
        cells = [f"{t['ratio']:.2f} ({t['ratio_min']:.2f} to {t['ratio_max']:.2f})" for t in timings]
        rows.append([variant.title, *cells])
    environment = record["environment"]
    note = (
        f"{environment['device']}, PyTorch {environment['torch']}, float32, channels_last, batch "
        f"{record['batch_size']}, medians of {record['rounds']} rounds side by side."
    )
    return f"{table(['time against the plain stride', *record['tables']], rows)}\n\n{note}"


if __name__ == "__main__":
    main()
