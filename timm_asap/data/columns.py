"""Which columns of a table hold the images and the labels, and the labels as class numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from timm_asap.errors import UserError, unknown_name

if TYPE_CHECKING:
    import datasets

_IMAGE_NAMES = ("image", "img")
_PATH_NAMES = ("image", "img", "path", "file", "filename", "file_name", "image_path")
_LABEL_NAMES = ("label", "labels", "class", "target", "cls")
_STRINGS = ("string", "large_string")


def find_image_column(features: datasets.Features, asked: str | None) -> str:
    """The column of images: the one asked for, the only one of its type, or one of paths with a usual name.

    Args:
        features: The table's columns and their types.
        asked: What --image-key says.

    Raises:
        UserError: There is none, or more than one and none is called image or img.
    """
    import datasets

    of_type = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    paths = [name for name in _PATH_NAMES if name in features and getattr(features[name], "dtype", "") in _STRINGS]
    return _choose("image", "--image-key", features, of_type or paths[:1], _IMAGE_NAMES, asked)


def find_label_column(features: datasets.Features, asked: str | None) -> str:
    """The column of labels: the one asked for, the only `ClassLabel`, or one with a label's name.

    Args:
        features: The table's columns and their types.
        asked: What --label-key says.

    Raises:
        UserError: There is none, or more than one and none is called label, labels, class, target or cls.
    """
    import datasets

    flat = flat_features(features)
    of_type = [name for name, feature in flat.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [name for name, feature in flat.items() if _holds_names_or_numbers(feature)]
    named = [name for name in plain if name in _LABEL_NAMES]
    # the fields of a column, such as the json of a WebDataset, only where no column is a label
    candidates = of_type or named or [name for name in plain if name.rpartition(".")[2] in _LABEL_NAMES]
    name = _choose("label", "--label-key", flat, candidates, _LABEL_NAMES, asked)
    if name not in of_type + plain:
        raise UserError(
            f"column {name!r} holds {flat[name]}: a label is a ClassLabel, an integer or a string; "
            "name another column with --label-key"
        )
    return name


class UnknownClassesError(UserError):
    """Which classes there are cannot be known of the images to measure on alone."""


def features_of(table: datasets.Dataset | datasets.IterableDataset) -> datasets.Features:
    """The columns of a table and their types.

    Raises:
        UserError: It is a stream that does not say them.
    """
    if table.features is None:
        raise UserError("the columns of the stream and their types are not known: leave --streaming out")
    return table.features


def is_named(feature: object) -> TypeGuard[datasets.ClassLabel]:
    """Whether a column's type says the names of the classes."""
    import datasets

    return isinstance(feature, datasets.ClassLabel)


def values_called(names: tuple[str, ...], some: list) -> list | None:
    """The labels without names of which these names were made when a model was trained; None if it was not so.

    Args:
        names: In the order of the model's outputs.
        some: Labels that there are; not each has to be there.
    """
    values = list(names)
    if not any(isinstance(value, str) for value in some):
        if not all(name.lstrip("-").isdecimal() for name in names):
            return None
        values = [int(name) for name in names]
    return values if set(some) - {None} <= set(values) and values == sorted(values) else None


class LabelEncoder:
    """From the values of a label column to class numbers, 0 up.

    Args:
        feature: The column's type; a `ClassLabel` brings its names.
        train_values: The training split's values; the distinct ones, sorted, are the classes if nothing else names
            them. None for a stream.
        num_classes: Says that labels are numbers from 0 up to this one, excluded.
        label_names: Says that labels are these names, or their numbers from 0 up.
        class_order: "natural" or "alphabetical": number the classes in that order of their names. By default named
            classes keep their own order, and others are in alphabetical order, or in that of their numbers.

    Raises:
        UserError: The number of classes is not the one given, or cannot be known.
    """

    def __init__(
        self,
        feature: object,
        train_values: list | None,
        num_classes: int | None = None,
        label_names: tuple[str, ...] | None = None,
        class_order: str | None = None,
    ) -> None:
        self._name_and_number(feature, train_values, num_classes, label_names)
        if class_order is None:
            return
        if label_names is not None:
            raise UserError("--label-names are in an order already: leave --class-order out")
        order = in_order(self.names, class_order)
        old_number = {name: number for number, name in enumerate(self.names)}
        new_number = {old_number[name]: number for number, name in enumerate(order)}
        self.names = order
        self._numbers = {value: new_number[number] for value, number in self._numbers.items()}

    def _name_and_number(
        self,
        feature: object,
        train_values: list | None,
        num_classes: int | None,
        label_names: tuple[str, ...] | None,
    ) -> None:
        own_names = feature.names if is_named(feature) else None
        names = own_names if label_names is None else label_names
        self._numbers: dict[Any, int]
        if names is not None:
            self.names = tuple(names)
        elif num_classes is not None:
            self.names = tuple(str(number) for number in range(num_classes))
        elif train_values is None:
            raise UserError("the classes of a stream without class names cannot be counted: give --num-classes")
        else:
            classes = sorted({value for value in train_values if value is not None})
            self.names = tuple(str(value) for value in classes)
            self._numbers = {value: number for number, value in enumerate(classes)}
            return
        for count, whose in ((num_classes, "--num-classes says"), (own_names and len(own_names), "the data set has")):
            if count is not None and count != len(self.names):
                raise UserError(f"{len(self.names)} classes are named, {whose} {count}")
        self._numbers = {number: number for number in range(len(self.names))}
        if getattr(feature, "dtype", None) in _STRINGS:
            self._numbers = {name: number for number, name in enumerate(self.names)}

    def number(self, value: object, where: str) -> int:
        """The class number of one value.

        Args:
            value: From the label column.
            where: What to call its place in an error.

        Raises:
            UserError: It is missing, or is none of the classes.
        """
        if value not in self._numbers:
            came = "no label" if value is None else f"the label {value!r}"
            raise UserError(f"{where} has {came}: expected one of the {len(self.names)} classes")
        return self._numbers[value]

    def encode(self, values: list, where: str) -> torch.Tensor:
        """Class numbers, int64 (N,).

        Args:
            values: One per sample.
            where: What to call the column in an error.

        Raises:
            UserError: A value is missing, or is none of the classes.
        """
        numbers = [self.number(value, f"row {row} of {where}") for row, value in enumerate(values)]
        return torch.tensor(numbers, dtype=torch.int64)


CLASS_ORDERS = ("natural", "alphabetical")
"""class2 before class10, capitals and small letters alike, as timm numbers class folders; or by characters, as
torchvision and `datasets` do."""


def in_order(names: Iterable[str], class_order: str) -> tuple[str, ...]:
    """Names of classes in one of `CLASS_ORDERS`."""
    return tuple(sorted(sorted(names), key=_natural if class_order == "natural" else None))


def _natural(name: str) -> list[str | int]:
    # timm.utils.natural_key, which fails for figures that are no decimal numbers: m²
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def column_values(table: datasets.Dataset, name: str) -> list:
    """A whole column as Python values; "json.label" is the field label of the column json."""
    column, *path = _column_and_path(table.features, name)
    values = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return [_descend(value, path) for value in values] if path else values


def row_value(row: Mapping, features: datasets.Features, name: str) -> object:
    """The value of a column in one row, named as for `column_values`."""
    column, *path = _column_and_path(features, name)
    return _descend(row[column], path)


def has_column(features: Mapping[str, object], name: str) -> bool:
    """Whether there is a column of that name, or a field of a column."""
    return name in flat_features(features)


def top_column(features: datasets.Features, name: str) -> str:
    """The column that holds a field: json of "json.label"."""
    return _column_and_path(features, name)[0]


def flat_features(features: Mapping[str, object]) -> dict[str, object]:
    """Columns by name, and the fields of those that have fields as "column.field"."""
    flat: dict[str, object] = {}
    for name, feature in features.items():
        flat[name] = feature
        if isinstance(feature, dict):
            flat.update({f"{name}.{field}": kind for field, kind in flat_features(feature).items()})
    return flat


def _column_and_path(features: datasets.Features, name: str) -> list[str]:
    return [name] if name in features else name.split(".")


def _descend(value: Any, path: list[str]) -> Any:
    for field in path:
        value = None if value is None else value[field]
    return value


def _holds_names_or_numbers(feature: object) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    return dtype in (*_STRINGS, "bool") or dtype.lstrip("u").startswith("int")


def _choose(
    kind: str,
    flag: str,
    features: Mapping[str, object],
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
