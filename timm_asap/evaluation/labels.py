"""Which class of the model each class of the data is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.data import ImageNetInfo
from torch import nn

from timm_asap.errors import UserError

__all__ = ["ChosenClasses", "choose_classes", "match_labels"]

_IMAGENET_CLASSES = 1000


def match_labels(data_names: Sequence[str], model_names: Sequence[str] | None, model_classes: int) -> list[int]:
    """The model's class for each class of the data.

    By name where the model knows its classes' names, or where it has the 1,000 of ImageNet and the data's folders
    are called after its synsets (n01440764): the data may then hold some of the classes only, as ImageNet-A and
    ImageNet-R do, and the model chooses among those. Folders that count the classes are those, as in ImageNetV2.
    Otherwise by order, if there are as many.

    Args:
        data_names: The names of the data's classes, in the order of their labels.
        model_names: The names of the model's classes; None if it does not know them.
        model_classes: How many classes the model tells apart.

    Raises:
        UserError: If they do not fit.
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
    may_be_numbers = model_names is None or model_classes == _IMAGENET_CLASSES
    if may_be_numbers and sorted(ours) == sorted(map(str, range(model_classes))):
        return [int(name) for name in ours]
    if len(ours) != model_classes:
        raise UserError(
            f"the data have {len(ours)} classes ({_few(data_names)}) and the model tells {model_classes} apart: "
            "expected the classes that the model was trained on"
        )
    if model_names is not None:
        strangers = [name for name in data_names if _plain(name) not in {_plain(n) for n in model_names}]
        raise UserError(
            f"the data have classes that the model does not know ({_few(strangers)}); it knows {_few(model_names)}: "
            "expected the data that it was trained on, or some of their classes"
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


def _plain(name: str) -> str:
    return name.strip().replace("_", " ").casefold()


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
