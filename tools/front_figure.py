"""Draws docs/front.png, the README's figure: `python tools/front_figure.py`.

A zone plate, rings that grow finer outwards, halved twice by a plain stride, by timm's BlurPool and by ASAP. Rings that
the small grid cannot carry must vanish; where they come back as other rings, they alias.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from timm.layers import BlurPool2d

from timm_asap import asap_pool2d
from timm_asap.figures import new_figure, save_png, styled

N = 256
OUTPUT = Path(__file__).parents[1] / "docs" / "front.png"

WAYS = {
    "plain stride": lambda x: x[..., ::2, ::2],
    "BlurPool": BlurPool2d(1),
    "ASAP": asap_pool2d,
}


def zone_plate() -> torch.Tensor:
    """(1, 1, N, N) in [-1, 1]; along the axes the frequency grows from 0 in the middle to the highest at the edge."""
    t = torch.arange(N) - N // 2
    return torch.cos(torch.pi * (t[:, None] ** 2 + t[None, :] ** 2) / N)[None, None]


@styled
def draw() -> Figure:
    """The plate, and its quarter by each way."""
    plate = zone_plate()
    images = {f"a zone plate, {N} x {N}": plate}
    for title, halve in WAYS.items():
        images[f"{title}, {N // 4} x {N // 4}"] = halve(halve(plate))
    figure = new_figure(9.6, 2.7)
    for axis, (title, image) in zip(figure.subplots(1, len(images)), images.items(), strict=True):
        axis.imshow(image[0, 0], cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
    return figure


if __name__ == "__main__":
    print(save_png(draw(), OUTPUT))
