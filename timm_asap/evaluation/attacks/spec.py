"""Which attack, how strong and how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import timm_asap
from timm_asap.adversarial.eps import check_eps
from timm_asap.errors import UserError, unknown_name

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
            self._fill("step_size", self.eps if self.name == "fgsm" else 2.5 * self.eps / self.steps)
            if not (math.isfinite(self.step_size) and self.step_size >= 0):
                raise UserError(f"step size of {self.name}: expected a number from 0 up, got {self.step_size}")
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
