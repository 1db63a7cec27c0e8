"""Whether a run trains on adversarial images, and which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from timm_asap.adversarial import AdversarialConfig, parse_eps
from timm_asap.command_line import flag, metavar
from timm_asap.errors import UserError
from timm_asap.training.options.flags import check_range


@dataclass(frozen=True)
class AdversarialOptions:
    """Training on images that an attack has changed."""

    adversarial: Annotated[str | None, metavar("fgsm|pgd|trades|free")] = None
    """Train on adversarial images, by this method."""
    eps: Annotated[str, metavar("EPS")] | None = None
    """Largest change of a pixel on the [0, 1] scale, as a number or a fraction: 8/255."""
    attack_steps: int | None = None
    """Steps of pgd and trades; by default 10."""
    attack_step_size: Annotated[str, metavar("EPS")] | None = None
    """Size of a step on the [0, 1] scale, as --eps; by default the method's own."""
    attack_mode: Annotated[str, metavar("eval|train")] | None = None
    """Whether adversarial images are made with the network in eval or train mode; by default the method's own."""
    trades_beta: float | None = None
    """Weight of the robust term of trades; by default 6."""
    free_replays: int | None = None
    """How often free trains on a batch before it takes the next one; by default 8. Divide --epochs by it."""
    watch_images: int = 256
    """Held-out images that adversarial training attacks by PGD after each epoch, to notice catastrophic overfitting."""

    def __post_init__(self) -> None:
        check_range(self, "attack_steps free_replays watch_images", 1)
        check_range(self, "trades_beta", 0)
        names = ("eps", "attack_steps", "attack_step_size", "attack_mode", "trades_beta", "free_replays")
        given = [flag(name) for name in names if getattr(self, name) is not None]
        if self.adversarial is None and given:
            raise UserError(f"{', '.join(given)}: only adversarial training has it; add --adversarial fgsm or pgd")
        if self.adversarial is not None and self.eps is None:
            raise UserError("--adversarial needs --eps, such as 8/255")
        _ = self.attack  # checks the rest

    @property
    def attack(self) -> AdversarialConfig | None:
        """The adversarial images that the run trains on, or None."""
        if self.adversarial is None:
            return None
        step_size = None if self.attack_step_size is None else parse_eps(self.attack_step_size)
        given = {
            "steps": self.attack_steps,
            "step_size": step_size,
            "model_mode": self.attack_mode,
            "beta": self.trades_beta,
            "replays": self.free_replays,
        }
        given = {name: value for name, value in given.items() if value is not None}
        return AdversarialConfig(method=self.adversarial, eps=parse_eps(self.eps), **given)
