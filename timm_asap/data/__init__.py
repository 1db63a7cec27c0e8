"""Image data sets by name, and the loaders that training and evaluation iterate over."""

from timm_asap.data.augment import AugmentConfig, default_augment
from timm_asap.data.load import load_dataset
from timm_asap.data.loader import build_loader, set_epoch
from timm_asap.data.splits import ImageDataset, LazySplit, Split, TensorSplit

__all__ = [
    "AugmentConfig",
    "ImageDataset",
    "LazySplit",
    "Split",
    "TensorSplit",
    "build_loader",
    "default_augment",
    "load_dataset",
    "set_epoch",
]
