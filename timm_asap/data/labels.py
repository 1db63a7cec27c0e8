"""Which class of the model each class of the data is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from timm.data import ImageNetInfo
from torch import nn

from timm_asap.data.columns import CLASS_ORDERS, in_order
from timm_asap.data.splits import ImageDataset
from timm_asap.errors import UserError

__all__ = ["ChosenClasses", "choose_classes", "match_labels", "renumbered"]

_IMAGENET_CLASSES = 1000


def match_labels(
    data_names: Sequence[str],
    model_names: Sequence[str] | None,
    model_classes: int,
    class_order: str | None = None,
) -> list[int]:
    """The model's class for each class of the data.

    By name where the model knows its classes' names, or where it has the 1,000 of ImageNet and the data's folders
    are called after its synsets (n01440764): the data may then hold some of the classes only, as ImageNet-A and
    ImageNet-R do, and the model chooses among those. Folders that count the classes are those, as in ImageNetV2.
    Otherwise by order, if there are as many, and there is no doubt about the order: folders are numbered as class1,
    class10, class2 by torchvision and as class1, class2, class10 by timm.

    Args:
        data_names: The names of the data's classes, in the order of their labels.
        model_names: The names of the model's classes; None if it does not know them.
        model_classes: How many classes the model has.
        class_order: In which order the names of the data are, where the user says that it is the model's.

    Raises:
        UserError: If they do not fit, or the order must be said.
    """
    ours = [_plain(name) for name in data_names]
    if model_names is None and model_classes == _IMAGENET_CLASSES:
        synsets = ImageNetInfo().label_names()
        if set(ours) <= set(synsets):
            return [synsets.index(name) for name in ours]
    if model_names is not None:
        theirs = [_plain(name) for name in model_names]
        if set(ours) <= set(theirs):
            return [theirs.index(name) for name in ours]
    # of other data sets, folders called 0 to 11 may have been sorted as 0, 1, 10, 11, 2
    doubtful = _is_doubtful(data_names) and model_classes != _IMAGENET_CLASSES
    may_be_numbers = model_classes == _IMAGENET_CLASSES or (model_names is None and not doubtful)
    if may_be_numbers and class_order is None and sorted(ours) == sorted(map(str, range(model_classes))):
        return [int(name) for name in ours]
    if len(ours) != model_classes:
        raise UserError(
            f"the data have {len(ours)} classes ({_few(data_names)}) and the model has {model_classes}: "
            "expected the classes that the model was trained on"
        )
    if model_names is not None:
        strangers = [name for name in data_names if _plain(name) not in {_plain(n) for n in model_names}]
        raise UserError(
            f"the data have classes that the model does not know ({_few(strangers)}); it knows {_few(model_names)}: "
            "expected the data that it was trained on, or some of their classes"
        )
    if doubtful and class_order is None:
        natural, alphabetical = (_few(in_order(data_names, order), 4) for order in CLASS_ORDERS)
        raise UserError(
            "the model has no names of its classes, so say how it numbers them: give --class-order natural "
            f"({natural}), as timm numbers folders, or --class-order alphabetical ({alphabetical}), as torchvision does"
        )
    return list(range(model_classes))


class ChosenClasses(nn.Module):
    """A classifier that chooses among some of its classes.

    Args:
        model: The classifier, (B, C, H, W) to (B, its classes).
        classes: Which of its classes, in the order of the data's labels.
    """

    def __init__(self, model: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("classes", torch.tensor(classes), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the chosen classes, (B, len(classes))."""
        return self.model(x)[:, self.classes]


def choose_classes(model: nn.Module, classes: Sequence[int], model_classes: int) -> nn.Module:
    """The model itself where `classes` are all of its own in their order, else `ChosenClasses`."""
    return model if list(classes) == list(range(model_classes)) else ChosenClasses(model, classes)


def renumbered(dataset: ImageDataset, classes: Sequence[int]) -> ImageDataset:
    """The data set with its classes numbered as a model's.

    Args:
        dataset: Not a stream.
        classes: The model's class for each class of the data, all of them.
    """
    names = tuple(dataset.label_names[classes.index(number)] for number in range(len(classes)))
    numbers = torch.tensor(classes)
    splits = {
        name: replace(split, labels=numbers[split.labels])
        for name in ("train", "val", "test")
        if (split := getattr(dataset, name)) is not None
    }
    return replace(dataset, label_names=names, **splits)


def _is_doubtful(names: Sequence[str]) -> bool:
    """Whether names are in alphabetical order, in which folders are read, and another program would have another."""
    natural, alphabetical = (in_order(names, order) for order in CLASS_ORDERS)
    return tuple(names) == alphabetical != natural


def _plain(name: str) -> str:
    return name.strip().replace("_", " ").casefold()


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
