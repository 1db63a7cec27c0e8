"""Reads eps as people write it: 8/255."""

from __future__ import annotations

import math

from timm_asap.errors import UserError, unknown_name

NORMS = ("linf", "l2")


def parse_eps(text: str | float, norm: str = "linf") -> float:
    """Eps on the [0, 1] pixel scale from a number or a fraction.

    Args:
        text: "8/255", "0.03" or a number.
        norm: "linf", where eps is at most 1, or "l2", where it may be larger: images differ by up to
            sqrt(C H W).

    Raises:
        UserError: If it is no number, negative, not finite, or above 1 in linf.

    Example:
        >>> parse_eps("8/255") == 8 / 255
        True
    """
    try:
        above, slash, below = str(text).partition("/")
        eps = float(above) / (float(below) if slash else 1)
    except (ValueError, ZeroDivisionError):
        eps = math.nan
    check_eps(eps, norm, came=text)
    return eps


def check_eps(eps: float, norm: str, came: object = None) -> None:
    """Refuse an eps that no attack can use.

    Args:
        eps: The number.
        norm: "linf" or "l2".
        came: What the user wrote, if it was not the number itself.

    Raises:
        UserError: As `parse_eps` does; or if the norm is unknown.
    """
    if norm not in NORMS:
        raise UserError(unknown_name("norm", norm, NORMS))
    came = eps if came is None else came
    if not (math.isfinite(eps) and eps >= 0):
        raise UserError(f"eps is a number or fraction from 0 up, such as 8/255, got {came!r}")
    if norm == "linf" and eps > 1:
        hint = f"; {eps:g} of 255 grey levels is {eps:g}/255" if eps <= 255 else ""
        raise UserError(f"eps in linf is on the [0, 1] pixel scale: expected at most 1, got {came!r}{hint}")
