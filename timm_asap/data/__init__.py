"""Image data sets by name, and the loaders that training and evaluation iterate over."""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.data.augment import AugmentConfig, MixupConfig, build_mixup, default_augment
    from timm_asap.data.config import DataConfig, PixelConfig
    from timm_asap.data.load import load_dataset
    from timm_asap.data.loader import build_loader, count_unreadable, set_epoch
    from timm_asap.data.splits import (
        PADDING_LABEL,
        ImageDataset,
        LazySplit,
        Split,
        StreamSplit,
        TensorSplit,
        leave_out_unreadable,
    )
    from timm_asap.data.stream_loader import StreamLoader

__all__ = [
    "PADDING_LABEL",
    "AugmentConfig",
    "DataConfig",
    "ImageDataset",
    "LazySplit",
    "MixupConfig",
    "PixelConfig",
    "Split",
    "StreamLoader",
    "StreamSplit",
    "TensorSplit",
    "build_loader",
    "build_mixup",
    "count_unreadable",
    "default_augment",
    "leave_out_unreadable",
    "load_dataset",
    "set_epoch",
]

# Whoever reads flags needs no torch.
__getattr__ = lazy_names(
    __name__,
    {
        "PADDING_LABEL": "timm_asap.data.splits",
        "AugmentConfig": "timm_asap.data.augment",
        "DataConfig": "timm_asap.data.config",
        "ImageDataset": "timm_asap.data.splits",
        "LazySplit": "timm_asap.data.splits",
        "MixupConfig": "timm_asap.data.augment",
        "PixelConfig": "timm_asap.data.config",
        "Split": "timm_asap.data.splits",
        "StreamLoader": "timm_asap.data.stream_loader",
        "StreamSplit": "timm_asap.data.splits",
        "TensorSplit": "timm_asap.data.splits",
        "build_loader": "timm_asap.data.loader",
        "build_mixup": "timm_asap.data.augment",
        "count_unreadable": "timm_asap.data.loader",
        "default_augment": "timm_asap.data.augment",
        "leave_out_unreadable": "timm_asap.data.splits",
        "load_dataset": "timm_asap.data.load",
        "set_epoch": "timm_asap.data.loader",
    },
    renamed={"count_corrupt": "count_unreadable"},
)
