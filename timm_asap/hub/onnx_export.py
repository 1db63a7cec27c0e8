"""A trained network as an ONNX file that says how its images are prepared, checked before it is put in place."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_model_data_config
from torch import nn

from timm_asap._io import replace_file
from timm_asap._types import present, pretrained_cfg_of
from timm_asap.errors import UserError, first_line

__all__ = ["OnnxReport", "export_onnx"]

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_BATCHES = (1, 2, 5)
_TOLERANCE = 1e-4
_FIRST_OPSET = 18  # the exporter writes this; older versions it converts to, or silently does not


@dataclass(frozen=True)
class OnnxReport:
    """How an exported file compares with the network.

    Args:
        path: The file.
        opset: Version of the ONNX operators.
        batches: Batch sizes that were compared.
        difference: Largest difference of a score.
        scale: Largest score, at least 1; differences up to `tolerance` times this are accepted.
        tolerance: Relative to `scale`.
    """

    path: Path
    opset: int
    batches: tuple[int, ...]
    difference: float
    scale: float
    tolerance: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.path}: opset {self.opset}, dynamic batch; in onnxruntime on batches of "
            f"{', '.join(map(str, self.batches))} the largest difference of a score is {self.difference:.1e} of "
            f"{self.scale:.3g} (accepted up to {self.tolerance * self.scale:.1e})"
        )


def export_onnx(
    model: nn.Module, path: str | Path, *, opset: int | None = None, include_normalization: bool = False
) -> OnnxReport:
    """Write a classifier of timm as ONNX.

    Input `images` is float32 (batch, C, H, W) of the model's own size, output `logits` float32 (batch, classes). The
    file's metadata hold `preprocessing` and `label_names` as JSON. The file is put in place only after onnxruntime
    gave the network's scores on batches of 1, 2 and 5 images of seeded noise, within 1e-4 of the largest score.

    Args:
        model: The network, on the CPU, with timm's `pretrained_cfg`; set to evaluation mode.
        path: The file; replaced if it is there.
        opset: Version of the ONNX operators; PyTorch's default if None.
        include_normalization: Take pixels in [0, 1] and subtract mean and divide by std inside.

    Raises:
        UserError: If a package is missing, PyTorch cannot export the network in that version, or the scores differ.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise UserError(f"ONNX export needs {', '.join(missing)}: pip install 'timm_asap[onnx]'")
    if opset is not None and opset < _FIRST_OPSET:
        raise UserError(f"opset: expected {_FIRST_OPSET} or more, got {opset}")
    path, config = Path(path), resolve_model_data_config(model)
    network = model.eval()
    if include_normalization:
        network = _Normalized(network, config["mean"], config["std"]).eval()
    program = _export(network, config["input_size"], opset)
    written = program.model.opset_imports[""]
    if opset not in (None, written):
        raise UserError(f"opset: PyTorch cannot write this network with version {opset}, only with {written}")
    program.model.metadata_props.update(_metadata(model, config, include_normalization))
    program.model.graph.name = pretrained_cfg_of(model)["architecture"]
    with replace_file(path) as aside:
        program.save(aside)
        difference, scale = _compare(network, aside, config["input_size"])
        if not difference <= _TOLERANCE * scale:  # NaN is no pass
            raise UserError(
                f"{path} was not written: onnxruntime's scores differ by {difference:.1e}, accepted are "
                f"{_TOLERANCE * scale:.1e}; another --opset may help"
            )
    return OnnxReport(path, written, _BATCHES, difference, scale, _TOLERANCE)


class _Normalized(nn.Module):
    """The network behind its normalization: pixels in [0, 1] to scores."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images - self.mean) / self.std)


def _export(network: nn.Module, input_size: tuple[int, int, int], opset: int | None) -> torch.onnx.ONNXProgram:
    with warnings.catch_warnings():
        # the exporter calls functions that PyTorch deprecates, and tells of versions that it converts between
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        try:
            program = torch.onnx.export(
                network,
                (torch.zeros(2, *input_size),),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, ValueError, RuntimeError) as error:
            raise UserError(f"PyTorch cannot export this network to ONNX: {first_line(error)}") from error
    return present(program, "program")


def _metadata(model: nn.Module, config: dict[str, Any], include_normalization: bool) -> dict[str, str]:
    """Text by name, as ONNX keeps it."""
    preprocessing = {
        "layout": "NCHW",
        "input_size": list(config["input_size"]),
        "interpolation": config["interpolation"],
        "crop_pct": config["crop_pct"],
        "crop_mode": config["crop_mode"],
        "range": [0.0, 1.0],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "normalization": "inside the graph" if include_normalization else "before the graph: (pixels - mean) / std",
    }
    labels = pretrained_cfg_of(model).get("label_names")
    return {
        "architecture": pretrained_cfg_of(model)["architecture"],
        "preprocessing": json.dumps(preprocessing),
        **({"label_names": json.dumps(list(labels))} if labels else {}),
    }


def _compare(network: nn.Module, file: Path, input_size: tuple[int, int, int]) -> tuple[float, float]:
    """The largest difference between the scores of PyTorch and onnxruntime, and the largest score (at least 1)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences, scales = [], [1.0]
    for batch in _BATCHES:
        images = torch.rand(batch, *input_size, generator=generator)
        with torch.no_grad():
            expected = network(images)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        differences.append((torch.from_numpy(found) - expected).abs().max().item())
        scales.append(expected.abs().max().item())
    return max(differences), max(scales)
