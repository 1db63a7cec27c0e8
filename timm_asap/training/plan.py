"""All that a run needs before its first step, put together and tried out before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import timm
import torch
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, split_model_name_tag
from timm.optim import list_optimizers
from torch import nn

from timm_asap import data
from timm_asap.errors import UserError, unknown_name
from timm_asap.training.config import TrainConfig, flag
from timm_asap.training.recipe import to_yaml


@dataclass(frozen=True, eq=False)
class Plan:
    """A configuration with every default settled, and the data and the model that it names.

    Args:
        config: What was asked for; `crop_padding`, `flip` and `output` are settled.
        dataset: The data.
        model: The network, on the CPU, with its first weights.
        input_size: (C, H, W) that the network is given.
        mean: Per channel, on the [0, 1] scale.
        std: Likewise.
        interpolation: How large images are resized; the model's own.
        crop_pct: Share of the side that the centre crop keeps: the model's own for large images, 1 for small ones.
    """

    config: TrainConfig
    dataset: data.ImageDataset
    model: nn.Module
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float

    @property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def augment(self) -> data.AugmentConfig:
        """The random changes to the training images."""
        usual = data.default_augment(self.config.dataset)
        return replace(usual, crop_padding=self.config.crop_padding, horizontal_flip=self.config.flip)


def make_plan(config: TrainConfig) -> Plan:
    """Load the data, build the model, and see that one fits the other.

    The first weights come from torch's global generator: seed it before.

    Args:
        config: What was asked for.

    Raises:
        UserError: If the data, the model or a keyword of it is unknown, or they do not fit.
    """
    _check_names(config)
    # the fifth that is held out of a data set without a test split stays the same whatever --seed is: the tests
    # of different runs compare, and no later evaluation meets an image that was trained on
    dataset = data.load_dataset(
        config.dataset,
        config.data_dir,
        image_key=config.image_key,
        label_key=config.label_key,
        train_split=config.train_split,
        test_split=config.test_split,
        seed=0,
    )
    if config.batch_size > len(dataset.train):
        raise UserError(
            f"--batch-size: expected at most the {len(dataset.train)} training images, got {config.batch_size}"
        )
    usual = data.default_augment(config.dataset)
    config = replace(
        config,
        output=str(config.run_folder),
        crop_padding=usual.crop_padding if config.crop_padding is None else config.crop_padding,
        flip=usual.horizontal_flip if config.flip is None else config.flip,
    )
    model = _create_model(config, dataset)
    _try_out(model, config.model, dataset)
    own = model.pretrained_cfg
    mean, std = dataset.mean, dataset.std
    # pretrained weights expect the pixels that they were trained on, where the channels are the same
    if config.pretrained and len(own["mean"]) == dataset.image_size[0]:
        mean, std = tuple(own["mean"]), tuple(own["std"])
    return Plan(
        config=config,
        dataset=dataset,
        model=model,
        input_size=dataset.image_size,
        mean=mean,
        std=std,
        interpolation="bicubic" if _is_small(dataset) else own["interpolation"],
        crop_pct=1.0 if _is_small(dataset) else own["crop_pct"],
    )


def describe(plan: Plan) -> str:
    """The resolved configuration, as YAML, and a summary of the model and the data."""
    channels, height, width = plan.input_size
    rows = {
        "model": f"{plan.config.model}, {plan.parameters:,} parameters",
        "input": f"{channels} x {height} x {width} (channels, height, width)",
        "classes": f"{plan.dataset.num_classes}: {_shorten(plan.dataset.label_names)}",
        "data": f"{plan.dataset.source}; {len(plan.dataset.train):,} training images, "
        f"{len(plan.dataset.test):,} test images ({plan.dataset.test_name})",
    }
    return to_yaml(plan.config) + "\n" + "\n".join(f"# {name:8}{text}" for name, text in rows.items())


def _is_small(dataset: data.ImageDataset) -> bool:
    """Whether the images are held in memory, at the size that the network takes."""
    return isinstance(dataset.train, data.TensorSplit)


def _check_names(config: TrainConfig) -> None:
    """Unknown optimizers and models, found before the data are read."""
    if config.opt not in list_optimizers():
        raise UserError(unknown_name("optimizer", config.opt, list_optimizers()))
    if ":" in config.model:  # hf-hub: and local-dir: are looked up when the model is built
        return
    architecture, tag = split_model_name_tag(config.model)
    if not is_model(architecture):
        raise UserError(unknown_name("model", config.model, timm.list_models()))
    tagged = get_arch_pretrained_cfgs(architecture)
    if tag and config.model not in tagged:
        raise UserError(unknown_name(f"tag of {architecture}", tag, [split_model_name_tag(t)[1] for t in tagged]))
    if config.asap_kwargs and not architecture.endswith("_asap"):
        given = ", ".join(flag(name) for name in config.asap_kwargs)
        twin = f"{architecture}_asap"
        instead = f"use --model {twin}, or leave it out" if is_model(twin) else "leave it out"
        raise UserError(f"{given}: {architecture} is no alias-free model; {instead}")


def _create_model(config: TrainConfig, dataset: data.ImageDataset) -> nn.Module:
    channels, height, _ = dataset.image_size
    if taken := {"num_classes", "in_chans"} & set(config.model_kwargs):
        raise UserError(f"the data set decides: leave {' and '.join(sorted(taken))} out of --model-kwargs")
    kwargs = {**config.asap_kwargs, **config.model_kwargs}
    known = None if ":" in config.model else get_pretrained_cfg(config.model)
    if known is not None and known.fixed_input_size:
        kwargs.setdefault("img_size", height)
    try:
        return timm.create_model(
            config.model,
            pretrained=config.pretrained,
            num_classes=dataset.num_classes,
            in_chans=channels,
            **kwargs,
        )
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, OSError, AssertionError) as error:
        # what timm raises for keywords that a model does not take and for weights that cannot be had
        raise UserError(f"model {config.model} cannot be built: {_first_line(error)}") from error


def _try_out(model: nn.Module, name: str, dataset: data.ImageDataset) -> None:
    """One image of zeros through the network: some cannot take small images, and say so only there."""
    _, height, width = dataset.image_size
    try:
        with torch.no_grad():
            scores = model.eval()(torch.zeros(1, *dataset.image_size))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise UserError(
            f"model {name} cannot take images of {height} x {width} pixels: {_first_line(error)}; "
            "choose a model for this size, such as resnet20_lowres_asap for 32 x 32"
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.shape != (1, dataset.num_classes):
        raise UserError(
            f"model {name} gives no scores for {dataset.num_classes} classes: "
            "leave out of --model-kwargs what makes it a feature extractor"
        )
    model.train()


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _shorten(names: tuple[str, ...], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
