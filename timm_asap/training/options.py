"""Options of a training run, one dataclass per concern; `TrainConfig` is all of them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from timm_asap.adversarial import AdversarialConfig, parse_eps
from timm_asap.command_line import Model, Name, flag, metavar, spelled_as_json
from timm_asap.data.config import DataConfig
from timm_asap.errors import UserError, check_seed, unknown_name


def require(holds: bool, name: str, expected: str, value: object) -> None:
    """Refuse the value of a field unless something holds."""
    if not holds:
        raise UserError(f"{flag(name)}: expected {expected}, got {value}")


def check_range(
    options: object,
    names: str,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Refuse numbers outside a range; None, where nothing was given, passes.

    Args:
        options: What has the fields.
        names: The fields, separated by blanks.
        low: The least value that is allowed.
        high: The largest value that is allowed; infinity itself is not.
        open_low: `low` itself is not allowed.
        open_high: `high` itself is not allowed.
    """
    expected = f"{'above' if open_low else 'at least'} {low:g}"
    if high != math.inf:
        expected = f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    for name in names.split():
        value = getattr(options, name)
        if value is not None:
            above = low < value if open_low else low <= value
            below = value < high if open_high else value <= high
            require(above and below and math.isfinite(value), name, expected, value)


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    # compared with their types, or 1 would pass for true
    return lambda value: value is None or (type(value), value) in [(type(choice), choice) for choice in choices]


Switch = Annotated[bool | None, spelled_as_json("true|false", _one_of(True, False))]
Stem = Annotated[bool | str | None, spelled_as_json("auto|true|false", _one_of("auto", True, False))]
Precision = Annotated[str | None, spelled_as_json("fp32|bf16|fp16", _one_of("fp32", "bf16", "fp16"))]
JsonObject = Annotated[dict[str, Any], spelled_as_json("JSON-OBJECT", lambda value: isinstance(value, dict))]


@dataclass(frozen=True)
class DataOptions(DataConfig):
    """The images, and which of them are held out."""

    val_share: float = 0.0
    """Fraction of the training images held out, each class in proportion, to choose the best epoch by:
    model.safetensors is then that epoch's, and the test split is looked at once, at the end. Which images are held out
    is the same for every --seed."""
    streaming: bool = False
    """Read the training images as they come instead of from the disk at random; needs --steps-per-epoch."""
    steps_per_epoch: int | None = None
    """Optimizer steps that count as an epoch; by default a pass over the training images."""
    shuffle_buffer: int = 10_000
    """Images that a stream is shuffled among, per process."""

    def __post_init__(self) -> None:
        check_range(self, "val_share", 0, 1, open_high=True)
        check_range(self, "steps_per_epoch shuffle_buffer num_classes", 1)
        if self.streaming and self.steps_per_epoch is None:
            raise UserError("--streaming needs --steps-per-epoch: the length of a stream is not known")


@dataclass(frozen=True)
class ModelOptions:
    """The network, and what it learns from."""

    model: Model = "resnet20_lowres_asap"
    """Any model name of timm, such as resnet50_asap or convnext_tiny, or hf-hub:NAME, or local-dir:FOLDER."""
    pretrained: bool = False
    """Start from the model's pretrained weights, with the image size, mean and std that they were trained with."""
    asap_window: Annotated[str | None, metavar("asap|hamming|flc")] = None
    """Window of an *_asap model; by default asap."""
    asap_boundary: Annotated[str | None, metavar("circular|reflect|zero")] = None
    """Boundary of an *_asap model; by default circular."""
    asap_layout: Annotated[str | None, metavar("preserve|paper")] = None
    """Layout of an *_asap model; by default preserve."""
    asap_stem: Stem = None
    """Whether an *_asap model converts its stem; by default auto: where its stride is 2 or 3."""
    drop_rate: float | None = None
    """Dropout probability before the classifier; by default the model's own."""
    drop_path_rate: float | None = None
    """Stochastic depth: the probability that the last block is skipped; by default the model's own."""
    model_kwargs: JsonObject = field(default_factory=dict)
    """Further keywords of timm.create_model, as JSON: '{"global_pool": "max"}'."""
    image_size: int | None = None
    """Side in pixels of large images in testing and, unless --train-image-size says otherwise, in training; by default
    that of the pretrained weights, or 224."""
    train_image_size: int | None = None
    """Side in pixels of large images in training."""
    crop_pct: float | None = None
    """Fraction of the side that the center crop of a large test image keeps; by default the model's own."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""

    teacher: Model | None = None
    """Learn from this network's outputs, too (distillation): a model name of timm with its pretrained weights, or
    hf-hub:NAME, or local-dir:FOLDER. The plain original is the teacher that a network with swapped strides wants."""
    teacher_weight: float = 0.5
    """Fraction of the loss that the teacher's predictions make up, from 0 to 1; the labels make up the rest."""
    teacher_temperature: float = 4.0
    """Temperature that softens both networks' predictions (Hinton et al., arXiv 1503.02531)."""
    teacher_features: float = 0.0
    """Weight of the relative squared distance between the two networks' maps after each alias-free layer; for a
    teacher that has the same layers, as the plain original of a twin."""

    def __post_init__(self) -> None:
        check_range(self, "drop_rate drop_path_rate", 0, 1, open_high=True)
        check_range(self, "image_size train_image_size", 16)
        check_range(self, "crop_pct", 0, 1, open_low=True)
        check_range(self, "teacher_weight", 0, 1)
        check_range(self, "teacher_features", 0)
        check_range(self, "teacher_temperature", 0, open_low=True)
        for name in ("drop_rate", "drop_path_rate"):
            if getattr(self, name) is not None and name in self.model_kwargs:
                raise UserError(f"--{name.replace('_', '-')} and --model-kwargs both set {name}: give only one")

    @property
    def asap_kwargs(self) -> dict[str, Any]:
        """The `asap_*` keywords that were given."""
        values = {f.name: getattr(self, f.name) for f in fields(ModelOptions) if f.name.startswith("asap_")}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def drop_kwargs(self) -> dict[str, float]:
        """The drop rates that were given."""
        values = {name: getattr(self, name) for name in ("drop_rate", "drop_path_rate")}
        return {name: value for name, value in values.items() if value is not None}


SCHEDULES = ("constant", "cosine", "multistep", "poly", "rsqrt", "step", "tanh", "wsd")
CLIP_MODES = ("norm", "value", "agc")
LOSSES = ("ce", "bce")


@dataclass(frozen=True)
class OptimizationOptions:
    """How the weights are optimized."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 128
    """Images per optimizer step, over all processes together."""
    accumulate: int = 1
    """Parts that each process computes its share of a batch in, one after the other, to save memory."""
    opt: Name = "sgd"
    """Optimizer, by timm's name for it; sgd has Nesterov momentum."""
    opt_kwargs: JsonObject = field(default_factory=dict)
    """Further keywords of the optimizer, as JSON: '{"betas": [0.9, 0.95]}'."""
    lr: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Momentum of the optimizers that take one."""
    weight_decay: float = 5e-4
    """Weight decay; biases and normalization layers have none."""
    layer_decay: float | None = None
    """Factor on the learning rate from each group of layers to the one before it, for fine-tuning: 0.7 to 1."""
    sched: Annotated[str, metavar("|".join(SCHEDULES))] = "cosine"
    """Learning-rate schedule, set at every step."""
    sched_kwargs: JsonObject = field(default_factory=dict)
    """Further keywords of timm's create_scheduler_v2, times in epochs: '{"decay_milestones": [60, 80]}'."""
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up, part of --epochs."""
    min_lr: float = 0.0
    """Learning rate that the schedule ends at."""
    clip_grad: float | None = None
    """Limit of the gradient: of its norm, of its values or, with agc, of its norm against that of the weights."""
    clip_mode: Annotated[str, metavar("|".join(CLIP_MODES))] = "norm"
    """What --clip-grad limits."""
    loss: Annotated[str, metavar("|".join(LOSSES))] = "ce"
    """ce, cross-entropy over the classes, or bce, binary cross-entropy of each class."""
    bce_threshold: float | None = None
    """With --loss bce, targets above this count as 1 and the others as 0: mixed images then have two classes."""
    label_smoothing: float = 0.0
    """Fraction of the target spread evenly over all classes, in [0, 1)."""
    ema: float | None = None
    """Decay per step of an exponential moving average of the weights, such as 0.9998; it is what is then tested and
    saved. Its first steps average over fewer (timm's warm-up)."""
    freeze_bn: bool = False
    """Leave the statistics of BatchNorm layers as they are, and normalize by them in training too: for images that are
    few, or unlike those that the weights were trained on."""
    early_stop: int | None = None
    """Stop after this many epochs without a better validation accuracy; needs --val-share."""

    def __post_init__(self) -> None:
        check_range(self, "epochs batch_size accumulate early_stop", 1)
        check_range(self, "warmup_epochs weight_decay min_lr", 0)
        check_range(self, "lr clip_grad", 0, open_low=True)
        check_range(self, "layer_decay", 0, 1, open_low=True)
        check_range(self, "momentum label_smoothing ema", 0, 1, open_high=True)
        for kind, name, known in (
            ("schedule", self.sched, SCHEDULES),
            ("clip mode", self.clip_mode, CLIP_MODES),
            ("loss", self.loss, LOSSES),
        ):
            if name not in known:
                raise UserError(unknown_name(kind, name, known))
        check_range(self, "bce_threshold", 0, 1)


@dataclass(frozen=True)
class AugmentationOptions:
    """How training images are changed at random."""

    crop_padding: int | None = None
    """Pixels of padding before the random crop of small images; by default what suits the data set."""
    flip: Switch = None
    """Mirror half of the images; by default what suits the data set."""
    crop_scale: float | None = None
    """Least share of the area of a large image that its random crop keeps; 0.08 by default."""
    color_jitter: float | None = None
    """Brightness, contrast and saturation of large images change by up to this share; 0.4 by default."""
    auto_augment: Annotated[str, metavar("POLICY")] | None = None
    """Policy for large images, as timm spells it: rand-m9-mstd0.5-inc1 (RandAugment), original, augmix-m5-w4-d2, or 3a
    (the three of DeiT III)."""
    random_erasing: float = 0.0
    """Probability that a rectangle of the image is replaced by noise."""
    repeated_augment: int = 1
    """How many differently augmented copies of an image an epoch holds; it shows as many times fewer images."""
    mixup: float = 0.0
    """Alpha of mixup: images and labels are blended by a share drawn from Beta(alpha, alpha)."""
    cutmix: float = 0.0
    """Alpha of cutmix: a rectangle comes from another image. With --mixup, one of both is drawn per batch."""
    mixup_prob: float = 1.0
    """Fraction of the batches that are mixed."""
    mixup_off_epoch: int | None = None
    """Mix no more from this epoch on."""

    def __post_init__(self) -> None:
        check_range(self, "crop_padding color_jitter mixup cutmix mixup_off_epoch", 0)
        check_range(self, "random_erasing mixup_prob", 0, 1)
        check_range(self, "crop_scale", 0, 1, open_low=True)
        check_range(self, "repeated_augment", 1)

    @property
    def mixes(self) -> bool:
        """Whether any batch is mixed."""
        return bool(self.mixup or self.cutmix) and self.mixup_prob > 0


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
        if self.adversarial is None or self.eps is None:  # without eps, `__post_init__` refuses
            return None
        step_size = None if self.attack_step_size is None else parse_eps(self.attack_step_size)
        given: dict[str, Any] = {
            "steps": self.attack_steps,
            "step_size": step_size,
            "model_mode": self.attack_mode,
            "beta": self.trades_beta,
            "replays": self.free_replays,
        }
        given = {name: value for name, value in given.items() if value is not None}
        return AdversarialConfig(method=self.adversarial, eps=parse_eps(self.eps), **given)


TRACKERS = ("tensorboard", "trackio", "wandb")


@dataclass(frozen=True)
class RuntimeOptions:
    """How the run computes, and what it keeps and reports."""

    mixed_precision: Precision = None
    """Precision of the forward and backward pass; by default what accelerate is configured for, else fp32."""
    channels_last: bool = False
    """Keep images and weights in channels-last memory order."""
    compile: bool = False
    """Compile the model with torch.compile: a minute at the start, faster steps after it."""
    sync_bn: bool = False
    """Compute BatchNorm statistics over all GPUs instead of one at a time."""
    num_workers: int = 0
    """Worker processes per training process that decode large images; images up to 64 px need none."""
    seed: int = 0
    """Seeds the first weights, the order of the images and their augmentation. Which images are held out where a
    data set has no test split does not depend on it: runs of different seeds are tested on the same images."""
    checkpoint_steps: int | None = None
    """Save the state every so many steps as well as after each epoch."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept; the weights of the best epoch are kept besides."""
    tracker: Annotated[str | None, metavar("|".join(TRACKERS))] = None
    """Report to this tracker as well as to metrics.jsonl."""

    def __post_init__(self) -> None:
        check_range(self, "num_workers", 0)
        check_seed(self.seed)
        check_range(self, "checkpoint_steps keep_checkpoints", 1)
        if self.tracker is not None and self.tracker not in TRACKERS:
            raise UserError(unknown_name("tracker", self.tracker, TRACKERS))
