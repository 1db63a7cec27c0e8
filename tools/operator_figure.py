"""Draws docs/operator.png: `python tools/operator_figure.py`.

Two signals, a step edge and a chirp, through every way to halve them. 64 samples each; the pools are this package's
own matrices, the blur is timm's layer.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from timm.layers import BlurPool2d

from timm_asap import asap_pool2d

N = 64
OUTPUT = Path(__file__).parents[1] / "docs" / "operator.png"

#: Title and downsampling of one signal (N,).
METHODS = {
    "stride": lambda x: x[::2],
    "BlurPool": lambda x: _by_rows(BlurPool2d(1), x),
    "FLC": lambda x: _by_rows(lambda image: asap_pool2d(image, window="flc"), x),
    "ASAP": lambda x: _by_rows(asap_pool2d, x),
    "ASAP, hamming": lambda x: _by_rows(lambda image: asap_pool2d(image, window="hamming"), x),
    "ASAP, reflect": lambda x: _by_rows(lambda image: asap_pool2d(image, boundary="reflect"), x),
    "ASAP, zero": lambda x: _by_rows(lambda image: asap_pool2d(image, boundary="zero"), x),
}


def _by_rows(layer, x: torch.Tensor) -> torch.Tensor:
    """A row signal as an image whose rows are all alike, through a layer; its middle row."""
    image = x.expand(N, N)[None, None]
    return layer(image)[0, 0, N // 4]


def signals() -> dict[str, torch.Tensor]:
    """The step from 0 to 1, and a chirp that sweeps all frequencies up to the highest."""
    t = torch.arange(N, dtype=torch.float32)
    return {"step edge": (t >= N // 2 + 5).float() + 0.5, "chirp": torch.cos(np.pi * t**2 / (2 * N))}


def main() -> None:
    """Draw and save: a row for each method, a column for each signal, so that a narrow screen shows them."""
    columns = signals()
    figure, axes = plt.subplots(
        len(METHODS), len(columns), figsize=(8, 11), sharex=True, sharey="col", layout="constrained"
    )
    for row, (title, downsample) in zip(axes, METHODS.items(), strict=True):
        for axis, (signal_name, x) in zip(row, columns.items(), strict=True):
            y = downsample(x)
            axis.plot(np.arange(N), x, color="0.75", linewidth=1, label="64 samples")
            axis.plot(2 * np.arange(N // 2), y, color="C0", linewidth=1.2, marker=".", markersize=5, label="32 samples")
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_xticks([0, 32, 63])
            if signal_name == "chirp":
                axis.axvline(N / 2, color="C3", linewidth=0.8, linestyle=":")
        row[0].set_ylabel(title)
    for axis, signal_name in zip(axes[0], columns, strict=True):
        axis.set_title(signal_name)
    axes[0, 0].legend(loc="upper left", frameon=False)
    axes[0, 1].text(N / 2 + 1, 1.1, "beyond: not representable", color="C3", fontsize=9)
    figure.savefig(OUTPUT, dpi=110)


if __name__ == "__main__":
    main()
