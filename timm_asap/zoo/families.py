"""Which modules of timm get twins."""

__all__ = ["FAMILIES"]

#: timm's model modules (`timm.list_modules()`) of which every architecture gets a twin; `lowres` is this package's.
FAMILIES = ("convnext", "lowres", "resnet")
