"""What adversarial training can be told, with the field's defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass

from timm_asap.adversarial.eps import check_eps
from timm_asap.errors import UserError, unknown_name

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
    """Mode of the model while images are sought. In train (fgsm, pgd and free) BatchNorm normalises by the batch and
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
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise UserError(f"adversarial step size: expected a number above 0, got {self.step_size}")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise UserError(f"adversarial beta: expected a number from 0 up, got {self.beta}")

    def _fill(self, name: str, default: object) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, default)

    def _refuse_unused(self, name: str, fits: bool) -> None:
        if not fits:
            raise UserError(f"adversarial training by {self.method} has no {name} to set, got {getattr(self, name)}")
