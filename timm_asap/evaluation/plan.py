"""From a configuration to the list of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from timm_asap.adversarial import AttackSpec, masking_attacks
from timm_asap.errors import UserError
from timm_asap.evaluation.config import MEASURES, EvaluateConfig
from timm_asap.evaluation.corruptions import approximation
from timm_asap.evaluation.corruptions.apply import SMALLEST_SIDE
from timm_asap.evaluation.measurements import (
    AttackMeasurement,
    CleanMeasurement,
    CorruptionMeasurement,
    Measurement,
    ShiftMeasurement,
)
from timm_asap.evaluation.shift import ShiftSpec
from timm_asap.evaluation.sources import MeasuredData, corruptions_in

__all__ = ["attack_specs", "make_measurements", "resolve_table", "settle_files", "settle_size"]

_CIFAR_SIDE_PX = 64
"""The largest side that the parameters of CIFAR-10-C are meant for."""


def settle_files(config: EvaluateConfig) -> tuple[EvaluateConfig, list[str]]:
    """The corruptions and severities that a folder of corrupted images holds, where nobody asked for others.

    Args:
        config: What was asked for.

    Returns:
        What is measured, and a line for the user where it is less.
    """
    if config.dataset not in ("imagenet-c", "cifar10-c") or config.data_dir is None or "corruptions" in config.given:
        return config, []
    present = corruptions_in(Path(config.data_dir).expanduser(), config.dataset, config.corruptions)
    if not present or set(present) == set(config.corruptions):  # where there is none, reading them says so
        return config, []
    left_out = [name for name in config.corruptions if name not in present]
    note = f"corruptions that {config.data_dir} does not hold are left out: {', '.join(left_out)}"
    return config.changed(corruptions=tuple(present)), [note]


def settle_size(
    config: EvaluateConfig, data: MeasuredData, input_size: tuple[int, int, int]
) -> tuple[EvaluateConfig, list[str]]:
    """What images of the model's size have room for, where nobody asked for more.

    Args:
        config: What was asked for.
        data: What it is measured on.
        input_size: (C, H, W) that the network takes.

    Returns:
        What is measured, and lines for the user where it is less.
    """
    side, notes = min(input_size[1:]), []
    corrupts = "corruptions" in config.measures and data.corrupted is None
    if corrupts and side < SMALLEST_SIDE and not {"measures", "corruptions"} & config.given:
        notes.append(f"no corruptions: they need {SMALLEST_SIDE} pixels a side, the model takes {side}")
        config = config.changed(measures=tuple(measure for measure in config.measures if measure != "corruptions"))
    shifts = tuple(pixels for pixels in config.shift_pixels if pixels < side)
    if "shift" in config.measures and len(shifts) < len(config.shift_pixels) and "shift_pixels" not in config.given:
        notes.append(f"no shifts by {side} pixels or more: the model takes {side}")
        config = config.changed(shift_pixels=shifts or (0.5,))
    return config, notes


def make_measurements(
    config: EvaluateConfig, data: MeasuredData, input_size: tuple[int, int, int]
) -> list[Measurement]:
    """The measurements, in the order in which they run and stand in the record; aliasing, which has no answer per
    image, is none of them.

    Args:
        config: What was asked for.
        data: What it is measured on.
        input_size: (C, H, W) that the network takes.

    Raises:
        UserError: If a measure is not possible with these data, or needs a package that is not installed.
    """
    measurements: dict[str, Sequence[Measurement]] = {
        "clean": [CleanMeasurement()],
        "corruptions": _corruption_cells(config, data, input_size),
        "attacks": [AttackMeasurement(spec) for spec in attack_specs(config)] if "attacks" in config.measures else [],
        "shift": [
            ShiftMeasurement(ShiftSpec(kind, pixels, config.seed))
            for kind in config.shifts
            for pixels in config.shift_pixels
        ],
        "aliasing": [],
    }
    return [measurement for measure in chosen_measures(config, data) for measurement in measurements[measure]]


def chosen_measures(config: EvaluateConfig, data: MeasuredData) -> tuple[str, ...]:
    """What is measured of these data, in order: corrupted images show nothing but corruptions.

    Raises:
        UserError: If they show none of what was asked for.
    """
    possible = MEASURES if data.corrupted is None else ("corruptions",)
    chosen = tuple(measure for measure in possible if measure in config.measures)
    if not chosen:
        raise UserError(
            f"data set {config.dataset!r} holds corrupted images: expected --measures corruptions, got "
            f"{' '.join(config.measures)}"
        )
    return chosen


def resolve_table(table: str, input_size: tuple[int, int, int]) -> str:
    """The parameters of the corruptions: `auto` takes those of CIFAR-10-C up to 64 pixels a side.

    Raises:
        UserError: If those were asked for, and the images are larger.
    """
    is_small = max(input_size[1:]) <= _CIFAR_SIDE_PX
    if table == "cifar" and not is_small:
        raise UserError(
            f"--table cifar is for images of up to {_CIFAR_SIDE_PX} pixels, the model takes "
            f"{input_size[1]} x {input_size[2]}: expected imagenet or auto"
        )
    return table if table != "auto" else "cifar" if is_small else "imagenet"


def attack_specs(config: EvaluateConfig) -> list[AttackSpec]:
    """The attacks, by name and eps; with `check_masking` those that tell masked gradients, where they are not there.

    Raises:
        UserError: If an option does not fit, or a package is missing.
    """
    specs = [
        AttackSpec(
            name,
            eps,
            config.norm,
            steps=config.steps if name in ("pgd", "apgd-ce") else None,
            step_size=config.step_size if name == "pgd" else None,
            restarts=config.restarts if name in ("pgd", "apgd-ce") else None,
            seed=config.seed,
        )
        for name in config.attacks
        for eps in config.eps_values
    ]
    if config.check_masking:
        middle = sorted(config.eps_values)[len(config.eps_values) // 2]
        there = {spec.id for spec in specs}
        specs += [s for s in masking_attacks(middle, norm=config.norm, seed=config.seed) if s.id not in there]
    ids = [spec.id for spec in specs]
    if twice := next((name for name in ids if ids.count(name) > 1), None):
        raise UserError(f"--eps: two of them are {twice} in six digits; leave one out")
    return specs


def _corruption_cells(
    config: EvaluateConfig, data: MeasuredData, input_size: tuple[int, int, int]
) -> list[CorruptionMeasurement]:
    if "corruptions" not in config.measures:
        return []
    measurements = []
    for name in config.corruptions:
        for severity in config.severities:
            if data.corrupted is None:
                table = resolve_table(config.table, input_size)
                note = approximation(name, table, input_size[1:], input_size[0])
                measurements.append(CorruptionMeasurement(name, severity, table, config.seed, note))
            else:
                table = "cifar" if config.dataset == "cifar10-c" else "imagenet"
                images = partial(data.corrupted, name, severity)
                measurements.append(CorruptionMeasurement(name, severity, table, None, split=images))
    return measurements
