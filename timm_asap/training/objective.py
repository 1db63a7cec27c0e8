"""What a batch is trained towards: labels, mixed labels, a teacher's predictions, or labels under attack."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel
from timm.loss import BinaryCrossEntropy
from torch import nn

from timm_asap._types import present, pretrained_cfg_of
from timm_asap.adversarial import AdversarialState, adversarial_loss
from timm_asap.conversion.strided import is_converted
from timm_asap.data import MixupConfig, build_mixup
from timm_asap.errors import UserError
from timm_asap.training.config import TrainConfig
from timm_asap.training.plan import Plan


class BatchLoss(NamedTuple):
    """What the loss of some images came to."""

    loss: torch.Tensor
    """To call `backward` on."""
    scores: torch.Tensor
    """Of the images that were trained on, for the training accuracy."""
    right: torch.Tensor | None = None
    """Classes (B,) that count as right, where they are not the labels."""


class Objective:
    """The loss of a run.

    Args:
        plan: What the run is.
        accelerator: Its device and processes.
    """

    def __init__(self, plan: Plan, accelerator: Accelerator) -> None:
        config = plan.config
        self.attack = config.attack
        self.adversarial_state = AdversarialState()
        self.criterion = _criterion(config)
        self.mix = _mixing(config, plan.dataset.num_classes) if config.mixes else None
        self.mix_off_epoch = config.mixup_off_epoch
        self.seed, self.process = config.seed, accelerator.process_index
        self.teaching = None
        if plan.teacher is not None:
            teacher = _Renormalized(plan.teacher, plan.pixels.mean, plan.pixels.std).to(accelerator.device)
            names = _alias_free_layers(plan) if config.teacher_features else ()
            self.teaching = _Teaching(
                teacher,
                config.teacher_weight,
                config.teacher_temperature,
                config.teacher_features,
                names,
                labeled=plan.labeled,
            )

    @property
    def replays(self) -> int:
        """Optimizer steps on each batch: more than one in adversarial training for free."""
        return 1 if self.attack is None else self.attack.settled.replays

    def targets(
        self, images: torch.Tensor, labels: torch.Tensor, epoch: int, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The images of a batch and what they are trained towards, mixed where the run mixes.

        Args:
            images: (B, C, H, W).
            labels: (B,), classes.
            epoch: Counted from 0.
            batch: Its number in the epoch.

        Returns:
            Images, and classes (B,) or the share of each class (B, K).
        """
        off = self.mix_off_epoch is not None and epoch >= self.mix_off_epoch
        if self.mix is None or off:
            return images, labels
        return self.mix(images, labels, self.seed, epoch, batch, self.process)

    def __call__(self, model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> BatchLoss:
        """The mean loss of some images.

        Args:
            model: The network, as `accelerator.prepare` returned it.
            images: (B, C, H, W).
            targets: As `targets` gives them.
        """
        if self.attack is not None:
            found = adversarial_loss(model, self.criterion, images, targets, self.attack, self.adversarial_state)
            return BatchLoss(found.loss, found.adversarial_logits)
        if self.teaching is not None:
            return self.teaching(model, self.criterion, images, targets)
        scores = model(images)
        return BatchLoss(self.criterion(scores, targets), scores.detach())

    def after_backward(self) -> None:
        """To be called between the backward pass and the optimizer's step."""
        if self.attack is not None:
            self.adversarial_state.after_backward(self.attack)


class _Renormalized(nn.Module):
    """A network that was trained on pixels of another mean and std."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        own_mean, own_std = (torch.tensor(pretrained_cfg_of(model)[name]) for name in ("mean", "std"))
        ours_mean, ours_std = torch.tensor(mean), torch.tensor(std)
        # (x * std + mean - own_mean) / own_std, where x is normalized by mean and std
        self.register_buffer("scale", (ours_std / own_std).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", ((ours_mean - own_mean) / own_std).view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images * self.scale + self.shift)


class _Teaching:
    """Learns from a teacher's logits (Hinton, Vinyals & Dean, 2015, section 2) and maps.

    Args:
        teacher: The teacher, which takes the same images.
        weight: Of the divergence from the teacher's predictions; the labels have the rest.
        temperature: Softens both predictions.
        feature_weight: Of the relative squared distance between the maps after each of some layers.
        layers: Their names, in both networks.
        labeled: Whether the images have labels; else the teacher's top class counts as right.
    """

    def __init__(
        self,
        teacher: _Renormalized,
        weight: float,
        temperature: float,
        feature_weight: float = 0.0,
        layers: tuple[str, ...] = (),
        labeled: bool = True,
    ) -> None:
        self.teacher = teacher
        self.weight = weight
        self.temperature = temperature
        self.feature_weight = feature_weight
        self.layers = layers
        self.labeled = labeled

    def __call__(
        self, model: nn.Module, criterion: Callable[..., torch.Tensor], images: torch.Tensor, targets: torch.Tensor
    ) -> BatchLoss:
        with torch.no_grad(), _Outputs(self.teacher.model, self.layers) as wanted:
            logits = self.teacher(images).float()
        with _Outputs(_unwrapped(model), self.layers) as found:
            scores = model(images)
        predictions = F.log_softmax(logits / self.temperature, dim=1)
        student = F.log_softmax(scores.float() / self.temperature, dim=1)
        divergence = F.kl_div(student, predictions, log_target=True, reduction="batchmean")
        # the temperature squared keeps the gradient's size whatever the temperature is
        loss = self.weight * self.temperature**2 * divergence
        if self.weight < 1:
            loss = loss + (1 - self.weight) * criterion(scores, targets)
        for name in self.layers:
            distance = (found[name].float() - wanted[name].float()).square().mean()
            loss = loss + self.feature_weight * distance / wanted[name].float().square().mean().clamp(min=1e-12)
        return BatchLoss(loss, scores.detach(), None if self.labeled else logits.argmax(dim=1))


class _Outputs(dict[str, torch.Tensor]):
    """What some layers of a network give while it runs, by name."""

    def __init__(self, model: nn.Module, layers: tuple[str, ...]) -> None:
        super().__init__()
        self._hooked = [(name, model.get_submodule(name)) for name in layers]

    def __enter__(self) -> _Outputs:
        self._handles = [layer.register_forward_hook(partial(self._keep, name)) for name, layer in self._hooked]
        return self

    def _keep(self, name: str, _: nn.Module, __: tuple, output: torch.Tensor) -> None:
        self[name] = output

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network within what accelerate and torch.compile put around it."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


def _alias_free_layers(plan: Plan) -> tuple[str, ...]:
    """The layers whose maps are compared: the converted ones of the network, which the teacher must have, too."""
    known = dict(present(plan.teacher, "teacher").named_modules())
    names = tuple(name for name, layer in plan.model.named_modules() if is_converted(layer))
    missing = [name for name in names if name not in known]
    if missing or not names:
        lacking = f"the teacher has no layer {missing[0]}" if missing else "the model has none"
        raise UserError(f"--teacher-features compares maps after alias-free layers, and {lacking}: leave it out")
    return names


def _mixing(config: TrainConfig, num_classes: int) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    mixing = MixupConfig(mixup_alpha=config.mixup, cutmix_alpha=config.cutmix, prob=config.mixup_prob)
    return build_mixup(mixing, num_classes, config.label_smoothing)


def _criterion(config: TrainConfig) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Takes classes and, for mixed images, the share of each; mixing has smoothed those itself."""
    if config.loss == "bce":
        return BinaryCrossEntropy(smoothing=config.label_smoothing, target_threshold=config.bce_threshold)
    hard = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    soft = nn.CrossEntropyLoss()
    return lambda scores, targets: (soft if targets.is_floating_point() else hard)(scores, targets)
