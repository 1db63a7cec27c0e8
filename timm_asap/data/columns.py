"""Which columns of a table hold the images and the labels, and the labels as class numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from timm_asap.errors import UserError, unknown_name

if TYPE_CHECKING:
    import datasets

_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "class", "target")


def find_image_column(features: datasets.Features, asked: str | None) -> str:
    """The column of images: the one asked for, or the only one of its type.

    Args:
        features: The table's columns and their types.
        asked: What --image-key says.

    Raises:
        UserError: There is none, or more than one and none is called image or img.
    """
    import datasets

    of_type = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    return _choose("image", "--image-key", features, of_type, _IMAGE_NAMES, asked)


def find_label_column(features: datasets.Features, asked: str | None) -> str:
    """The column of labels: the one asked for, the only `ClassLabel`, or one with a label's name.

    Args:
        features: The table's columns and their types.
        asked: What --label-key says.

    Raises:
        UserError: There is none, or more than one and none is called label, labels, class or target.
    """
    import datasets

    of_type = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [name for name, feature in features.items() if _holds_names_or_numbers(feature)]
    candidates = of_type or [name for name in plain if name in _LABEL_NAMES]
    name = _choose("label", "--label-key", features, candidates, _LABEL_NAMES, asked)
    if name not in of_type + plain:
        raise UserError(
            f"column {name!r} holds {features[name]}: a label is a ClassLabel, an integer or a string; "
            "name another column with --label-key"
        )
    return name


class LabelEncoder:
    """From the values of a label column to class numbers, 0 up.

    Args:
        feature: The column's type; a `ClassLabel` brings its names.
        train_values: The training split's values; without a `ClassLabel` the distinct ones, sorted, are the
            classes.
    """

    def __init__(self, feature: object, train_values: list) -> None:
        import datasets

        if isinstance(feature, datasets.ClassLabel):
            self.names = tuple(feature.names)
            self._numbers = {number: number for number in range(len(self.names))}
        else:
            classes = sorted({value for value in train_values if value is not None})
            self.names = tuple(str(value) for value in classes)
            self._numbers = {value: number for number, value in enumerate(classes)}

    def encode(self, values: list, where: str) -> torch.Tensor:
        """Class numbers, int64 (N,).

        Args:
            values: One per sample.
            where: What to call the column in an error.

        Raises:
            UserError: A value is missing, or is none of the classes.
        """
        for row, value in enumerate(values):
            if value not in self._numbers:
                came = "no label" if value is None else f"the label {value!r}"
                raise UserError(f"row {row} of {where} has {came}: expected one of the {len(self.names)} classes")
        return torch.tensor([self._numbers[value] for value in values], dtype=torch.int64)


def column_values(table: datasets.Dataset, name: str) -> list:
    """A whole column as Python values."""
    return table.select_columns([name]).with_format("arrow")[:][name].to_pylist()


def _holds_names_or_numbers(feature: object) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    return dtype in ("string", "large_string", "bool") or dtype.lstrip("u").startswith("int")


def _choose(
    kind: str,
    flag: str,
    features: datasets.Features,
    candidates: list[str],
    usual_names: tuple[str, ...],
    asked: str | None,
) -> str:
    if asked is not None:
        if asked not in features:
            raise UserError(f"{flag}: {unknown_name('column', asked, features)}")
        return asked
    if len(candidates) > 1:
        candidates = [name for name in usual_names if name in candidates][:1] or candidates
    if len(candidates) == 1:
        return candidates[0]
    found = f"several {kind} columns" if candidates else f"no {kind} column"
    raise UserError(f"{found} among {', '.join(candidates or features)}: name it with {flag}")
