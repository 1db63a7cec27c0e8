"""Image data sets by name, and the loaders that training and evaluation iterate over."""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.data.augment import AugmentConfig, default_augment
    from timm_asap.data.load import load_dataset
    from timm_asap.data.loader import build_loader, count_unreadable, set_epoch
    from timm_asap.data.mixing import MixupConfig, build_mixup
    from timm_asap.data.splits import ImageDataset, LazySplit, Split, StreamSplit, TensorSplit
    from timm_asap.data.stream_loader import StreamLoader
    from timm_asap.data.unreadable import PADDING_LABEL, leave_out_unreadable

__all__ = [
    "PADDING_LABEL",
    "AugmentConfig",
    "ImageDataset",
    "LazySplit",
    "MixupConfig",
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
        "PADDING_LABEL": "timm_asap.data.unreadable",
        "AugmentConfig": "timm_asap.data.augment",
        "ImageDataset": "timm_asap.data.splits",
        "LazySplit": "timm_asap.data.splits",
        "MixupConfig": "timm_asap.data.mixing",
        "Split": "timm_asap.data.splits",
        "StreamLoader": "timm_asap.data.stream_loader",
        "StreamSplit": "timm_asap.data.splits",
        "TensorSplit": "timm_asap.data.splits",
        "build_loader": "timm_asap.data.loader",
        "build_mixup": "timm_asap.data.mixing",
        "count_unreadable": "timm_asap.data.loader",
        "default_augment": "timm_asap.data.augment",
        "leave_out_unreadable": "timm_asap.data.unreadable",
        "load_dataset": "timm_asap.data.load",
        "set_epoch": "timm_asap.data.loader",
    },
    renamed={"count_corrupt": "count_unreadable"},
)
