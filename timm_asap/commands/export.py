"""`timm-asap export MODEL --onnx FILE`: a trained network as an ONNX file, checked in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from timm_asap.command_line import File, Model, parse
from timm_asap.errors import UserError


@dataclass(frozen=True)
class ExportOptions:
    """Write a trained network as ONNX, with a dynamic batch and its preprocessing as metadata."""

    model: tyro.conf.Positional[Model]
    """A run folder, a pretrained model such as resnet50_asap.a1_in1k, or hf-hub:NAME."""
    onnx: File
    """File to write; it appears once onnxruntime gave the network's scores."""
    opset: int | None = None
    """Version of the ONNX operators; by default PyTorch's."""
    include_normalization: bool = False
    """Put (pixels - mean) / std into the file: it then takes pixels in [0, 1]."""
    overwrite: bool = False
    """Replace the file."""


def main(argv: Sequence[str]) -> None:
    """Load, export, and print how the file compares."""
    options = parse(ExportOptions, argv, prog="timm-asap export")
    file = Path(options.onnx)
    if file.is_dir() or not file.name:
        raise UserError(f"--onnx {options.onnx} is a folder: expected a file, such as model.onnx")
    if file.exists() and not options.overwrite:
        raise UserError(f"--onnx {file} is there already: --overwrite replaces it")
    # torch and timm: not for the help
    from timm_asap.hub.onnx_export import export_onnx
    from timm_asap.zoo import load, model_folder

    model = load(model_folder(options.model))
    report = export_onnx(model, file, opset=options.opset, include_normalization=options.include_normalization)
    print(report)
