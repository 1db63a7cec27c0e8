"""Where a corruption is not the published one: what the record says of it."""

from __future__ import annotations

from timm_asap.evaluation.corruptions import weather
from timm_asap.evaluation.corruptions.apply import check_request, check_size
from timm_asap.evaluation.corruptions.tables import SEVERITIES, TABLES

# Their strengths hold lengths in pixels (or a fractal or a photograph of a fixed size), so that on images of another
# size than the table's the same severity is another one.
_IN_PIXELS = (
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "snow",
    "frost",
    "fog",
    "gaussian_blur",
    "spatter",
)
_COLOURED = ("frost", "spatter", "saturate")


def approximation(
    name: str, table: str = "imagenet", size: int | tuple[int, int] | None = None, channels: int = 3
) -> str | None:
    """Why results with this corruption are not comparable with published ones to the last digit, for the record.

    Args:
        name: One of `CORRUPTIONS` or `EXTRA_CORRUPTIONS`.
        table: `"imagenet"` or `"cifar"`.
        size: Of the images: side, or (height, width), pixels. Default: the table's own.
        channels: 1 or 3.

    Returns:
        One line, or None where the corruption is the published one.

    Raises:
        UserError: An unknown name or table, or a size that cannot be corrupted.

    Examples:
        >>> approximation("contrast", "cifar", 28) is None
        True
        >>> approximation("fog", "cifar", 28)
        'strengths chosen for 32 x 32 images, applied to 28 x 28'
    """
    check_request(name, SEVERITIES[0], table)
    side = TABLES[table].side
    if size is None:
        size = (side, side)
    elif isinstance(size, int):
        size = (size, size)
    check_size(size, table)
    reasons = []
    if name == "frost":
        reasons += _frost(table, size)
    own_size = size == (side, side)
    if name in _IN_PIXELS and not own_size:
        reasons.append(f"strengths chosen for {side} x {side} images, applied to {size[0]} x {size[1]}")
    if name == "elastic_transform" and not own_size:
        reasons.append(f"strengths chosen for {side} x {side} images, scaled to {size[0]} x {size[1]}")
    if channels == 1 and name in _COLOURED:
        reasons.append("colors replaced by their luma in gray images")
    return "; ".join(reasons) or None


def _frost(table: str, size: tuple[int, int]) -> list[str]:
    if weather.photographs() is None:
        return ["drawn frost in place of the photographs, which the package imagecorruptions ships"]
    if weather.enlarged(size, TABLES[table].parameters["frost"][0][2]):
        return ["photographs of frost enlarged to cover the image"]
    return []
