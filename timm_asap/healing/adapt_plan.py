"""What an adaptation runs on: the teacher and the twin, the images, the number of steps, and the plan of the run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from timm_asap import data
from timm_asap._io import cut_path
from timm_asap._types import pretrained_cfg_of, undeclared
from timm_asap.data.config import PixelConfig
from timm_asap.data.splits import counted
from timm_asap.data.unlabeled import load_images
from timm_asap.errors import UserError
from timm_asap.healing.pair import load_pair, plain_copy
from timm_asap.healing.refit import converted_convolutions
from timm_asap.training.adapt_options import AdaptConfig
from timm_asap.training.config import TrainConfig
from timm_asap.training.plan import Plan
from timm_asap.zoo import create_model

__all__ = [
    "NetworkPair",
    "imagenet_names",
    "load_network_pair",
    "load_unlabeled",
    "make_adapt_plan",
    "steps_in_minutes",
]


_DEFAULT_MINUTES = 30.0


_MEASUREMENTS = 10
"""Fidelity is measured, and the state saved, so many times over a run."""


_TIMED_STEPS = 3


_LOADING_TAKES = 1.25
"""A step with its images takes so many times what the networks take; measured on two CPU cores at 160 pixels."""


@dataclass(frozen=True, eq=False)
class NetworkPair:
    """The networks: what the teacher is called, the teacher, and the twin that learns."""

    name: str
    plain: nn.Module
    twin: nn.Module


def load_network_pair(config: AdaptConfig, network: nn.Module | None) -> NetworkPair:
    """The teacher and the twin that learns from it, checked.

    Args:
        config: What was asked for.
        network: The converted network, in place of the one that `config.model` names.

    Raises:
        UserError: If a network is missing, has no classifier, holds NaN, or their classes differ.
    """
    if network is not None:
        if not converted_convolutions(network):
            raise UserError("model: expected a converted network; convert it first, with timm_asap.convert")
        if not hasattr(network, "pretrained_cfg"):
            raise UserError("model: expected a network of timm, whose pretrained_cfg says how to save it")
        twin, plain, name = network, plain_copy(network), config.model
    else:
        if not config.model:
            raise UserError("MODEL is missing: timm-asap adapt MODEL --images DIR")
        plain, twin = load_pair(config.model, config.asap_kwargs)
        plain, name = plain_copy(twin) if plain is None else plain, cut_path(config.model)
    if not twin.num_classes:
        raise UserError(f"{config.model} has no classifier, and so no predictions to agree with")
    if config.teacher is not None:
        plain = create_model(config.teacher, kind="teacher", pretrained=True)
        name = cut_path(config.teacher)
        if plain.num_classes != twin.num_classes:
            raise UserError(
                f"--teacher {config.teacher} has {plain.num_classes} classes, {config.model} has {twin.num_classes}: "
                "expected the same ones; leave --teacher out to learn from the plain network"
            )
    for kind, model in (("the teacher", plain), ("the model", twin)):
        if not all(value.isfinite().all() for value in model.state_dict().values()):
            raise UserError(f"{config.model}: the weights of {kind} hold NaN or infinity; get them anew")
    return NetworkPair(name, plain.eval().requires_grad_(False), twin)


def load_unlabeled(config: AdaptConfig, pair: NetworkPair, tensor: torch.Tensor | None) -> data.ImageDataset:
    """The images, with the classes of the twin.

    Args:
        config: What was asked for.
        pair: The networks.
        tensor: Normalized images (N, C, H, W), in place of those that `config` names.

    Raises:
        UserError: If there are none, or they do not fit the network.
    """
    own = pretrained_cfg_of(pair.twin)
    channels, *size = own["input_size"]
    if tensor is not None:
        dataset = _of_tensor(tensor, pair.twin)
    elif config.images is not None:
        if channels != 3:
            raise UserError(f"--images holds color images, {config.model} takes {channels} channels: give --dataset")
        dataset = load_images(
            config.images, max(size), held_out=config.held_out, skip_unreadable=config.skip_unreadable
        )
    elif config.dataset is not None:
        dataset = data.load_dataset(
            config.dataset,
            config.data_dir,
            image_key=config.image_key,
            label_key=config.label_key,
            skip_unreadable=config.skip_unreadable,
        )
        if dataset.image_size[0] != channels:
            raise UserError(
                f"{config.dataset} has {dataset.image_size[0]} channels, {config.model} takes {channels}: give others"
            )
        if not isinstance(dataset.test, data.TensorSplit):
            dataset = replace(dataset, image_size=(channels, *size))
    else:
        raise UserError("no images: give --images DIR, or --dataset NAME as train.py takes it")
    names = own.get("label_names") or imagenet_names(pair.twin)
    return replace(dataset, label_names=tuple(names or map(str, range(undeclared(pair.twin).num_classes))))


def _of_tensor(images: torch.Tensor, twin: nn.Module) -> data.ImageDataset:
    """Normalized images as a data set, a fifth held out."""
    if images.ndim != 4 or not images.is_floating_point():
        raise UserError(f"images: expected a float tensor (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
    if len(images) < 5 or not images.isfinite().all():
        raise UserError(f"images: expected 5 or more, none of them with NaN; got {len(images)}")
    own = pretrained_cfg_of(twin)
    mean, std = (torch.tensor(own[name]).view(-1, 1, 1) for name in ("mean", "std"))
    pixels = ((images.cpu().float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    aside = len(pixels) // 5
    train, test = (
        data.TensorSplit(pixels[part], torch.zeros(len(part), dtype=torch.int64))
        for part in (order[aside:].sort().values, order[:aside].sort().values)
    )
    return data.ImageDataset(
        name="tensor",
        label_names=(),
        train=train,
        test=test,
        test_name="held-out images",
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
        image_size=(pixels.shape[1], pixels.shape[2], pixels.shape[3]),
        source=f"{len(pixels):,} images without labels",
    )


def imagenet_names(model: nn.Module) -> list[str] | None:
    """Names of the classes of an ImageNet model, each once."""
    subset = infer_imagenet_subset(model)
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    names = info.label_descriptions(as_dict=False)
    short = [name.split(",")[0] for name in names]
    return [
        name if short.count(name) == 1 else f"{name} ({synset})"
        for name, synset in zip(short, info.label_names(), strict=True)
    ]


def steps_in_minutes(config: AdaptConfig, pair: NetworkPair, dataset: data.ImageDataset) -> int:
    """How many steps the minutes allow, from timing a few on the device that trains."""
    minutes = config.minutes or _DEFAULT_MINUTES
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = found or torch.device("cpu")
    size = _train_size(config, dataset)
    images = torch.zeros(config.batch_size, *size, device=device)
    twin, plain = (_channels_last(model, device).eval() for model in (pair.twin, pair.plain))
    times = []
    for _ in range(_TIMED_STEPS):
        began = time.perf_counter()
        with torch.no_grad():
            plain(images)
        loss = twin(images).float().square().mean()
        grads = torch.autograd.grad(loss, [p for p in twin.parameters() if p.requires_grad], allow_unused=True)
        float(next(g for g in grads if g is not None).sum())  # waits for the device
        times.append(time.perf_counter() - began)
    for model in (twin, plain):
        model.to("cpu").to(memory_format=torch.contiguous_format)
    steps = max(1, round(60 * minutes / (min(times) * _LOADING_TAKES)))
    if os.environ.get("RANK", "0") == "0":
        print(
            f"{minutes:g} minutes: {steps:,} steps of about {60 * minutes / steps:.2f} s; --steps sets another number"
        )
    return steps


def _channels_last(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device).to(memory_format=torch.channels_last)


def _train_size(config: AdaptConfig, dataset: data.ImageDataset) -> tuple[int, int, int]:
    if isinstance(dataset.train, data.TensorSplit):
        return dataset.image_size
    channels, height, width = dataset.image_size
    side = config.train_image_size or max(64, round(0.7 * min(height, width) / 32) * 32)
    return channels, side, side


def make_adapt_plan(config: AdaptConfig, pair: NetworkPair, dataset: data.ImageDataset) -> Plan:
    """The plan of the run, as the training loop takes it."""
    own = pretrained_cfg_of(pair.twin)
    small = isinstance(dataset.train, data.TensorSplit)
    if small and (config.train_image_size is not None):
        raise UserError("--train-image-size is for large images: those of this data set are taken as they are")
    steps = config.steps or steps_in_minutes(config, pair, dataset)
    parts = min(_MEASUREMENTS, steps)
    steps_per_part = -(-steps // parts)
    parts = -(-steps // steps_per_part)
    train = counted(dataset.train)
    repeats = -(-steps_per_part * config.batch_size // len(train))
    if repeats > 1:  # an epoch here is a part of the run, and may show an image many times, each time changed anew
        dataset = replace(dataset, train=train.select(torch.arange(len(train)).repeat(repeats)))
    settings = TrainConfig(
        model=own["architecture"],
        dataset=config.dataset or "imagefolder",
        output=str(config.run_folder),
        epochs=parts,
        steps_per_epoch=steps_per_part,
        batch_size=config.batch_size,
        opt="adamw",
        lr=config.lr,
        weight_decay=0.0,
        warmup_epochs=min(0.5, parts / 2),
        clip_grad=5.0,
        freeze_bn=True,
        mixup=config.mixup,
        teacher=pair.name,
        teacher_weight=1.0,
        teacher_temperature=1.0,
        teacher_features=config.features,
        mixed_precision=config.mixed_precision,
        channels_last=True,
        num_workers=config.num_workers,
        seed=config.seed,
        checkpoint_steps=max(1, steps_per_part // 4),
        resume=config.resume,
        overwrite=config.overwrite,
    )
    augment = data.default_augment(dataset.name)
    if not small:
        augment = data.AugmentConfig(horizontal_flip=True, crop_scale=(config.crop_scale, 1.0))
    return Plan(
        config=settings,
        dataset=dataset,
        model=pair.twin,
        teacher=pair.plain,
        pixels=PixelConfig(
            input_size=dataset.image_size,
            mean=tuple(own["mean"]),
            std=tuple(own["std"]),
            interpolation=own["interpolation"],
            crop_pct=1.0 if small else own["crop_pct"],
        ),
        train_size=_train_size(config, dataset),
        augment=augment,
        labeled=False,
        lr_scales=_sizes_of_weights(pair),
    )


def _sizes_of_weights(pair: NetworkPair) -> dict[str, float]:
    """The root mean square of each tensor of weights: what a learning rate is a share of.

    AdamW moves every weight by about the learning rate. In a mobile network the tensors' sizes differ a hundredfold,
    and a rate that moves the large ones destroys the small ones.
    """
    sizes = {name: p.detach().double().square().mean().sqrt().item() for name, p in pair.twin.named_parameters()}
    usual = sum(sizes.values()) / len(sizes)
    return {name: size or usual for name, size in sizes.items()}
