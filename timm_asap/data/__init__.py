"""Image data sets by name, and the loaders that training and evaluation iterate over."""

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
