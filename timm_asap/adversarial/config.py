"""Configuration of attacks: eps as people write it (8/255), adversarial training, and the attacks of an evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import timm_asap
from timm_asap._types import present
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

    Examples:
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
        hint = f"; {eps:g} of 255 gray levels is {eps:g}/255" if eps <= 255 else ""
        raise UserError(f"eps in linf is on the [0, 1] pixel scale: expected at most 1, got {came!r}{hint}")


METHODS = ("fgsm", "pgd", "trades", "free")
MODEL_MODES = ("train", "eval")

# The step size is in eps. Sources, all with eps 8/255 on CIFAR-10:
# fgsm    Wong, Rice & Kolter, 2020 (arXiv 2001.03994): uniform start, one step of 10/255; train mode
# pgd     Madry et al., 2018 (arXiv 1706.06083) take 7 steps of 2/255; Rice, Wong & Kolter, 2020 (arXiv 2002.11569),
#         whose numbers these are, 10 of them; uniform start; train mode
# trades  Zhang et al., 2019 (arXiv 1901.08573): 10 steps of 0.007, start 0.001 times a normal, beta 6; eval mode
# free    Shafahi et al., 2019 (arXiv 1904.12843): steps of eps, 8 replays on CIFAR-10 (4 on ImageNet); train mode
_DEFAULTS = {
    "fgsm": {"steps": 1, "step": 1.25, "model_mode": "train"},
    "pgd": {"steps": 10, "step": 0.25, "model_mode": "train"},
    "trades": {"steps": 10, "step": 0.25, "model_mode": "eval", "beta": 6.0},
    "free": {"steps": 1, "step": 1.0, "model_mode": "train", "replays": 8},
}


class Settled(NamedTuple):
    """What is left None in an `AdversarialConfig`, settled: the fields of the same names."""

    steps: int
    step_size: float
    beta: float
    replays: int
    model_mode: str


@dataclass(frozen=True)
class AdversarialConfig:
    """Adversarial training. What is left None takes the default of its method."""

    method: str = "pgd"
    """fgsm, pgd, trades or free."""
    eps: float = 8 / 255
    """Radius of the ball, [0, 1] pixel scale."""
    norm: str = "linf"
    """linf or l2."""
    steps: int | None = None
    """Gradient steps per image: 10 in pgd and trades; fgsm and free take one."""
    step_size: float | None = None
    """Length of each step, [0, 1] pixel scale: 1.25 eps in fgsm, eps / 4 in pgd and trades, eps in free."""
    beta: float | None = None
    """Weight of trades' second term: 6."""
    replays: int | None = None
    """Optimizer steps that free takes on each batch: 8."""
    model_mode: str | None = None
    """Mode of the model while images are sought. In train (fgsm, pgd and free) BatchNorm normalizes by the batch and
    its running statistics move with every step of the attack, as in the field's code; in eval (trades) they rest."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(unknown_name("adversarial training", self.method, METHODS))
        check_eps(self.eps, self.norm)
        if self.eps == 0:
            raise UserError("adversarial training needs an eps above 0, such as 8/255")
        defaults = _DEFAULTS[self.method]
        self._refuse_unused("steps", self.steps is None or self.steps == 1 or defaults["steps"] > 1)
        self._refuse_unused("beta", self.beta is None or "beta" in defaults)
        self._refuse_unused("replays", self.replays in (None, 1) or "replays" in defaults)
        # resolved here, so that what is recorded is what ran
        self._fill("steps", defaults["steps"])
        self._fill("step_size", defaults["step"] * self.eps)
        self._fill("beta", defaults.get("beta", 0.0))
        self._fill("replays", defaults.get("replays", 1))
        self._fill("model_mode", defaults["model_mode"])
        if self.model_mode not in MODEL_MODES:
            raise UserError(unknown_name("mode of the attacked model", self.model_mode, MODEL_MODES))
        for name in ("steps", "replays"):
            if getattr(self, name) < 1:
                raise UserError(f"adversarial {name}: expected 1 or more, got {getattr(self, name)}")
        _, step_size, beta, _, _ = self.settled
        if not (math.isfinite(step_size) and step_size > 0):
            raise UserError(f"adversarial step size: expected a number above 0, got {step_size}")
        if not (math.isfinite(beta) and beta >= 0):
            raise UserError(f"adversarial beta: expected a number from 0 up, got {beta}")

    @property
    def settled(self) -> Settled:
        """The fields that may be left None, which none of them is any more."""
        return Settled(
            present(self.steps, "number of steps"),
            present(self.step_size, "step size"),
            present(self.beta, "beta"),
            present(self.replays, "number of replays"),
            present(self.model_mode, "mode of the model"),
        )

    def _fill(self, name: str, default: object) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, default)

    def _refuse_unused(self, name: str, fits: bool) -> None:
        if not fits:
            raise UserError(f"adversarial training by {self.method} has no {name} to set, got {getattr(self, name)}")


ATTACKS = ("fgsm", "pgd", "apgd-ce", "square", "autoattack")

DEFAULT_EPS = tuple(levels / 255 for levels in (0.5, 1, 2, 4, 8))
"""The default curve, linf on the [0, 1] pixel scale: networks trained without adversarial images break early in it."""

# Steps where the user names none; AutoAttack has no steps to set.
_STEPS = {"fgsm": 1, "pgd": 20, "apgd-ce": 100, "square": 5000, "autoattack": None}
_BY_PYAUTOATTACK = ("apgd-ce", "square", "autoattack")


@dataclass(frozen=True)
class AttackSpec:
    """One attack at one eps. What is left None takes the attack's default.

    Raises:
        UserError: If an option cannot be used, or the attack needs a package that is not installed.
    """

    name: str
    """fgsm, pgd, apgd-ce, square or autoattack."""
    eps: float
    """Radius of the ball, [0, 1] pixel scale."""
    norm: str = "linf"
    """linf or l2."""
    steps: int | None = None
    """Gradient steps (pgd: 20, apgd-ce: 100) or queries of the model (square: 5000)."""
    step_size: float | None = None
    """Length of each step, [0, 1] pixel scale: eps in fgsm, 2.5 eps / steps in pgd; the others choose their own."""
    restarts: int | None = None
    """Attempts from different random starts, by default 1; fgsm and autoattack have none to set."""
    seed: int = 0
    """Seed of all that is drawn."""

    def __post_init__(self) -> None:
        if self.name not in ATTACKS:
            raise UserError(unknown_name("attack", self.name, ATTACKS))
        check_eps(self.eps, self.norm)
        self._refuse_unused("steps", self.name not in ("fgsm", "autoattack") or self.steps == _STEPS[self.name])
        self._refuse_unused("step_size", self.name in ("fgsm", "pgd"))
        self._refuse_unused("restarts", self.name not in ("fgsm", "autoattack") or self.restarts == 1)
        # resolved here, so that what is recorded is what ran
        self._fill("steps", _STEPS[self.name])
        self._fill("restarts", 1)
        for name in ("steps", "restarts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} of {self.name}: expected 1 or more, got {value}")
        if self.name in ("fgsm", "pgd"):
            self._fill("step_size", self.eps if self.name == "fgsm" else 2.5 * self.eps / present(self.steps, "steps"))
            step_size = present(self.step_size, "step size")
            if not (math.isfinite(step_size) and step_size >= 0):
                raise UserError(f"step size of {self.name}: expected a number from 0 up, got {step_size}")
        if self.seed < 0:
            raise UserError(f"the seed of an attack is 0 or more, got {self.seed}")
        if self.name in _BY_PYAUTOATTACK:
            pyautoattack_version()

    @property
    def id(self) -> str:
        """Name of the result in an evaluation record, such as attack/pgd-linf/0.0313725."""
        return f"attack/{self.name}-{self.norm}/{self.eps:.6g}"

    @property
    def batch_size(self) -> int | None:
        """Images that must come in one batch, or None where any number will do.

        pyautoattack draws one stream of random numbers for a whole batch, so that its results are the same again
        only with the same batches: they are this large, whatever else is batched how.
        """
        return 50 if self.name in _BY_PYAUTOATTACK else None

    def record(self) -> dict:
        """The fields of a result in an evaluation record that say what ran."""
        ours = self.name not in _BY_PYAUTOATTACK
        return {
            "measure": "attack",
            "id": self.id,
            "attack": self.name,
            "version": f"timm_asap {timm_asap.__version__}" if ours else f"pyautoattack {pyautoattack_version()}",
            "norm": self.norm,
            "eps": self.eps,
            "steps": self.steps,
            "step_size": self.step_size,
            "restarts": self.restarts,
            "seed": self.seed,
        }

    def _fill(self, name: str, default: object) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, default)

    def _refuse_unused(self, name: str, fits: bool) -> None:
        if getattr(self, name) is not None and not fits:
            raise UserError(f"{self.name} has no {name} to set, got {getattr(self, name)}")


def pyautoattack_version() -> str:
    """Version of pyautoattack.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return version("pyautoattack")
    except PackageNotFoundError:
        raise UserError(
            f"{', '.join(_BY_PYAUTOATTACK)} need pyautoattack, which is not installed: pip install 'timm_asap[attacks]'"
        ) from None
