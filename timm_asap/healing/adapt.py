"""Label-free distillation of the plain network into its twin, through the training loop of `train.py`."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, DistributedType
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from timm_asap import data
from timm_asap._io import cut_path, read_json, write_json
from timm_asap.command_line import flag
from timm_asap.data.unlabelled import load_images
from timm_asap.errors import UserError
from timm_asap.healing.adapt_config import AdaptConfig
from timm_asap.healing.fidelity import Fidelity, Outputs, compare_outputs, outputs_of
from timm_asap.healing.heal import heal
from timm_asap.healing.pair import Blend, load_pair, plain_copy
from timm_asap.healing.refit import converted_convolutions
from timm_asap.provenance import run_facts
from timm_asap.training.config import TrainConfig
from timm_asap.training.display import learning_curves
from timm_asap.training.epoch import Stopped, start_sums, train_epoch
from timm_asap.training.export import export_model, save_checkpoint
from timm_asap.training.plan import Plan, build_test_loader
from timm_asap.training.run import Run
from timm_asap.training.run_folder import ADAPTATION, RunFolder
from timm_asap.training.start import start_run
from timm_asap.zoo import AsapOptions, create_model

__all__ = ["AdaptConfig", "AdaptResult", "adapt", "run_adaptation"]

# Where a continued run may differ from what it was started as.
_MAY_CHANGE_ON_RESUME = frozenset({"output", "data_dir", "images", "num_workers", "skip_unreadable"})

_DEFAULT_MINUTES = 30.0
_MEASUREMENTS = 10
"""Fidelity is measured, and the state saved, so many times over a run."""

_REFIT_IMAGES = 320
_TIMED_STEPS = 3
_LOADING_TAKES = 1.25
"""A step with its images takes so many times what the networks take; measured on two CPU cores at 160 pixels."""


@dataclass(frozen=True)
class AdaptResult:
    """What an adaptation came to."""

    run_folder: Path
    steps: int
    """Optimizer steps made."""
    stopped: bool
    """Whether it was asked to stop before its last step."""
    before: Fidelity
    """Of the twin with the weights that it started from, on the held-out images."""
    after: Fidelity | None
    """Of the exported weights, on the same images; None where the run was stopped."""
    load_line: str
    """The line of Python that gives the adapted model back."""
    is_main_process: bool
    model: nn.Module | None = None
    """The adapted network, on the CPU; None where the run was stopped."""


def adapt(model: str | nn.Module, images: str | Path | torch.Tensor | None = None, **options: Any) -> AdaptResult:
    """Adapt a twin to the plain network's predictions by distillation without labels, and write a run folder.

    The plain network and the twin see the same random crops. The loss is the Kullback-Leibler divergence of the
    twin's prediction from the plain one's; BatchNorm statistics stay as they are, all weights are trained. SIGINT and
    SIGTERM finish the step, save and end the run; `accelerate launch` starts it on several processes.

    Args:
        model: A pretrained model of timm, its twin, a run folder or hf-hub:NAME; or a converted network of timm with
            the plain one's weights, which is then adapted in place.
        images: A folder of images without labels, or normalised images as the network takes them: a float tensor
            (N, C, H, W); of these, a fifth is held out to measure on. None where `dataset` names a data set.
        **options: Fields of :class:`AdaptConfig`, such as `steps`, `minutes`, `output`, `seed`, `resume`.

    Returns:
        The run folder, and the fidelity to the plain network before and after, on images held out of the training.

    Raises:
        UserError: If it cannot be run, before anything is written; or if the loss stops being a number.
        TypeError: `model` or `images` is none of what is expected, or an option is unknown.
    """
    if not isinstance(model, (str, nn.Module)):
        raise TypeError(f"model: expected a name or a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(images, (str, Path, torch.Tensor, type(None))):
        raise TypeError(f"images: expected a folder or a tensor, got {type(images).__name__}")
    given = model if isinstance(model, str) else getattr(model, "pretrained_cfg", {}).get("architecture", "model")
    folder = str(images) if isinstance(images, (str, Path)) else None
    config = AdaptConfig(model=given, images=folder, **options)
    return run_adaptation(
        config,
        network=model if isinstance(model, nn.Module) else None,
        tensor=images if isinstance(images, torch.Tensor) else None,
    )


def run_adaptation(
    config: AdaptConfig, network: nn.Module | None = None, tensor: torch.Tensor | None = None
) -> AdaptResult:
    """Carry out an adaptation: start, then for each part of the run train, measure, record and save.

    Args:
        config: What was asked for.
        network: The converted network, in place of the one that `config.model` names.
        tensor: Normalised images, in place of those that `config.images` names.

    Raises:
        UserError: If it cannot be run.
    """
    folder = RunFolder(config.run_folder)
    folder.check(resume=config.resume, overwrite=config.overwrite)
    config = _as_it_was_started(config, folder) if config.resume else config
    starts = not (config.resume and folder.checkpoints.files())
    pair = _load_networks(config, network)
    dataset = _load_images(config, pair, tensor)
    config = replace(config, steps=config.steps or _steps_in(config, pair, dataset), minutes=None)
    plan = _make_plan(config, pair, dataset)
    held_out = _HeldOut(plan)
    try:
        before = held_out.fidelity(pair.twin)
        report = _heal_first(config, plan) if starts and config.refit else None
        started_at = held_out.fidelity(pair.twin)
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"{config.model}: {error}") from error
    run = start_run(plan.config, lambda *_: plan, lambda plan, accelerator: _records(config, plan, accelerator))
    with run.held:
        if starts and run.accelerator.is_main_process:
            record = {"before": asdict(before), "healed_first": None if report is None else str(report)}
            write_json(folder.path / ADAPTATION, record | {"at_first_step": asdict(started_at)})
            run.display.say(f"before: {before}")
            if report is not None and report.changed:
                run.display.say(f"healed in closed form: {started_at}")
        blend = _start_blend(config, run)
        stopped = False
        after = None
        with run.stop, run.display:
            try:
                for epoch in range(run.position.epoch, plan.config.epochs):
                    after = _run_epoch(run, epoch, held_out)
                    if run.stop.asked and epoch + 1 < plan.config.epochs:
                        raise Stopped
            except Stopped:
                stopped = True
        if blend is not None:
            blend.remove()
        if not stopped and after is None:  # a finished run was continued
            after = held_out.fidelity(run.network_on_cpu())
        return _finish(config, run, stopped, before, after, network)


@dataclass(frozen=True, eq=False)
class _Pair:
    """The networks: what the teacher is called, the teacher, and the twin that learns."""

    name: str
    plain: nn.Module
    twin: nn.Module


def _load_networks(config: AdaptConfig, network: nn.Module | None) -> _Pair:
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
    return _Pair(name, plain.eval().requires_grad_(False), twin)


def _load_images(config: AdaptConfig, pair: _Pair, tensor: torch.Tensor | None) -> data.ImageDataset:
    own = pair.twin.pretrained_cfg
    channels, *size = own["input_size"]
    if tensor is not None:
        dataset = _of_tensor(tensor, pair.twin)
    elif config.images is not None:
        if channels != 3:
            raise UserError(f"--images holds colour images, {config.model} takes {channels} channels: give --dataset")
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
    return replace(dataset, label_names=tuple(names or map(str, range(pair.twin.num_classes))))


def _of_tensor(images: torch.Tensor, twin: nn.Module) -> data.ImageDataset:
    """Normalised images as a data set, a fifth held out."""
    if images.ndim != 4 or not images.is_floating_point():
        raise UserError(f"images: expected a float tensor (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
    if len(images) < 5 or not images.isfinite().all():
        raise UserError(f"images: expected 5 or more, none of them with NaN; got {len(images)}")
    own = twin.pretrained_cfg
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
        image_size=tuple(pixels.shape[1:]),
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


def _steps_in(config: AdaptConfig, pair: _Pair, dataset: data.ImageDataset) -> int:
    """How many steps the minutes allow, from timing a few on the device that trains."""
    minutes = config.minutes or _DEFAULT_MINUTES
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    size = _train_size(config, dataset)
    images = torch.zeros(config.batch_size, *size, device=device)
    twin, plain = (model.to(device, memory_format=torch.channels_last).eval() for model in (pair.twin, pair.plain))
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
        model.to("cpu", memory_format=torch.contiguous_format)
    steps = max(1, round(60 * minutes / (min(times) * _LOADING_TAKES)))
    if os.environ.get("RANK", "0") == "0":
        print(
            f"{minutes:g} minutes: {steps:,} steps of about {60 * minutes / steps:.2f} s; --steps sets another number"
        )
    return steps


def _train_size(config: AdaptConfig, dataset: data.ImageDataset) -> tuple[int, int, int]:
    if isinstance(dataset.train, data.TensorSplit):
        return dataset.image_size
    channels, height, width = dataset.image_size
    side = config.train_image_size or max(64, round(0.7 * min(height, width) / 32) * 32)
    return channels, side, side


def _make_plan(config: AdaptConfig, pair: _Pair, dataset: data.ImageDataset) -> Plan:
    own = pair.twin.pretrained_cfg
    small = isinstance(dataset.train, data.TensorSplit)
    if small and (config.train_image_size is not None):
        raise UserError("--train-image-size is for large images: those of this data set are taken as they are")
    parts = min(_MEASUREMENTS, config.steps)
    steps_per_part = -(-config.steps // parts)
    parts = -(-config.steps // steps_per_part)
    repeats = -(-steps_per_part * config.batch_size // len(dataset.train))
    if repeats > 1:  # an epoch here is a part of the run, and may show an image many times, each time changed anew
        dataset = replace(dataset, train=dataset.train.select(torch.arange(len(dataset.train)).repeat(repeats)))
    settings = TrainConfig(
        model=pair.twin.pretrained_cfg["architecture"],
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
        input_size=dataset.image_size,
        train_size=_train_size(config, dataset),
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
        interpolation=own["interpolation"],
        crop_pct=1.0 if small else own["crop_pct"],
        augment=augment,
        labelled=False,
        lr_scales=_sizes_of_weights(pair),
    )


def _sizes_of_weights(pair: _Pair) -> dict[str, float]:
    """The root mean square of each tensor of weights: what a learning rate is a share of.

    AdamW moves every weight by about the learning rate. In a mobile network the tensors' sizes differ a hundredfold,
    and a rate that moves the large ones destroys the small ones.
    """
    sizes = {name: p.detach().double().square().mean().sqrt().item() for name, p in pair.twin.named_parameters()}
    usual = sum(sizes.values()) / len(sizes)
    return {name: size or usual for name, size in sizes.items()}


class _HeldOut:
    """The images that nothing is trained on, and the teacher's outputs for them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._reference: Outputs | None = None

    def _batches(self) -> Any:
        return (images for images, _ in build_test_loader(self._plan, self._plan.dataset.test))

    def fidelity(self, model: nn.Module) -> Fidelity:
        """Of a model, on the device it is on."""
        if self._reference is None:
            self._reference = outputs_of(self._plan.teacher, self._batches())
        return compare_outputs(self._reference, outputs_of(model, self._batches()))


def _heal_first(config: AdaptConfig, plan: Plan) -> Any:
    """The closed-form repairs, on some training images."""
    few = torch.randperm(len(plan.dataset.train), generator=torch.Generator().manual_seed(config.seed))[:_REFIT_IMAGES]
    subset = replace(plan.dataset, train=plan.dataset.train.select(few))
    batches = (images for images, _ in build_test_loader(replace(plan, dataset=subset), subset.train))
    return heal(plan.model, batches, refit="all", plain=plan.teacher)


def _start_blend(config: AdaptConfig, run: Run) -> Blend | None:
    """Let the plain strides turn into the alias-free ones as the run's steps go by; what is measured is the twin."""
    if not config.blend:
        return None
    network = run.accelerator.unwrap_model(run.model, keep_torch_compile=False)
    blend, last = Blend(network), config.blend * config.steps

    def set_amount(module: nn.Module, _: tuple) -> None:
        blend.amount = min(1.0, run.position.step / last) if module.training else 1.0

    blend.also_remove(network.register_forward_pre_hook(set_amount))
    return blend


def _run_epoch(run: Run, epoch: int, held_out: _HeldOut) -> Fidelity:
    """Train, measure, record and save one part of the run, or what is left of it."""
    trained = train_epoch(run, epoch)
    began = time.perf_counter()
    sharded = run.accelerator.distributed_type == DistributedType.FSDP
    found = held_out.fidelity(run.model if sharded else run.accelerator.unwrap_model(run.model))
    record = {
        "epoch": epoch + 1,
        "step": run.position.step,
        "lr": run.optimizer.param_groups[0]["lr"] / run.optimizer.param_groups[0]["lr_scale"],
        "train_loss": trained["train_loss"],
        "train_agreement": trained["train_accuracy"],
        **_shown(found),
        "images_per_s": trained["images_per_s"],
        "seconds": run.sums.seconds + time.perf_counter() - began,
    }
    run.position.epoch, run.position.batch = epoch + 1, 0
    run.position.best_epoch, run.position.best_step = run.position.epoch, run.position.step
    run.sums = start_sums(run)
    network = run.network_on_cpu()
    if run.accelerator.is_main_process:
        export_model(run.plan, network, run.folder.path)
        run.folder.add_metrics(record)
        learning_curves(run.folder.metrics(), run.folder.path / "plots" / "learning_curves.png")
    run.accelerator.log({name: value for name, value in record.items() if name != "epoch"}, step=epoch + 1)
    save_checkpoint(run)
    run.display.say(
        f"step {record['step']:>6,}  loss {record['train_loss']:.4f}  held-out images: {found}  "
        f"{record['images_per_s']:,.1f} images/s"
    )
    return found


def _shown(fidelity: Fidelity) -> dict[str, Any]:
    """The line of metrics.jsonl for a measurement."""
    names = ("agreement", "confident_agreement", "kl")
    found = {name: getattr(fidelity, name) for name in names if getattr(fidelity, name) is not None}
    return found | {"held_out_images": fidelity.images}


def _as_it_was_started(config: AdaptConfig, folder: RunFolder) -> AdaptConfig:
    """The recorded configuration, where there is one; refuses what differs from it."""
    if not folder.config_yaml.is_file():
        return config
    recorded = yaml.safe_load(folder.config_yaml.read_text(encoding="utf-8"))
    if not isinstance(recorded, dict) or not (folder.path / ADAPTATION).is_file():
        raise UserError(f"{folder.path} holds no adaptation: --resume continues what timm-asap adapt began")
    usual = AdaptConfig()
    for name, before in recorded.items():
        now = getattr(config, name, None)
        if name in _MAY_CHANGE_ON_RESUME or now in (before, getattr(usual, name, None)):
            continue
        raise UserError(
            f"--resume continues the run in {folder.path} as it was started: {flag(name)} was {before} there, got "
            f"{now}; leave it out, or give another --output"
        )
    kept = {n: v for n, v in recorded.items() if n in AdaptConfig.__dataclass_fields__}
    changed = {n: getattr(config, n) for n in _MAY_CHANGE_ON_RESUME if getattr(config, n) != getattr(usual, n)}
    return AdaptConfig(**{**kept, "minutes": None, **changed}, resume=True)


def _records(config: AdaptConfig, plan: Plan, accelerator: Accelerator) -> tuple[str, dict[str, Any]]:
    """config.yaml and run.json of an adaptation."""
    facts = run_facts(plan, accelerator)
    facts["command"] = command(config)
    facts["data"] |= {"name": plan.dataset.name, "hub_id": facts["data"]["hub_id"] if config.dataset else None}
    facts["data"]["train_images"] = len(set(_identities(plan.dataset.train)))
    facts["model"]["name"] = plan.config.model
    return yaml.safe_dump({**config.recorded(), "minutes": None}, sort_keys=False, allow_unicode=True), facts


def _identities(split: Any) -> list[Any]:
    """What tells the images of a split apart, copies not counted."""
    if hasattr(split, "paths"):
        return list(split.paths)
    return list(range(len(split)))


def command(config: AdaptConfig) -> str:
    """The shortest command line that gives a configuration; paths are cut to their last part."""
    usual = AdaptConfig()
    words = ["timm-asap", "adapt", cut_path(config.model)]
    for name, value in config.recorded().items():
        if name == "model" or value == getattr(usual, name) or (name == "minutes" and config.steps):
            continue
        if isinstance(value, bool):
            words.append(flag(name) if value else "--no-" + flag(name)[2:])
        else:
            words += [flag(name), cut_path(str(value))]
    return shlex.join(words)


def _finish(
    config: AdaptConfig, run: Run, stopped: bool, before: Fidelity, after: Fidelity | None, network: nn.Module | None
) -> AdaptResult:
    """Write adapt.json and result.json, and put the weights into the network that was given."""
    folder, plan = run.folder, run.plan
    trained = run.network_on_cpu()
    if run.accelerator.is_main_process and not stopped:
        record = read_json(folder.path / ADAPTATION, "what timm-asap adapt writes at the start of a run")
        record |= {
            "model": cut_path(config.model),
            "teacher": plan.config.teacher,
            "twin": plan.config.model,
            **_asap_options(plan.model),
            "images": plan.dataset.source,
            "held_out": plan.dataset.test_name,
            "steps": run.position.step,
            "after": asdict(after),
        }
        write_json(folder.path / ADAPTATION, record)
        folder.write_result({"epoch": run.position.epoch, "step": run.position.step, **_shown(after)})
    run.accelerator.wait_for_everyone()
    if network is not None and not stopped:
        network.load_state_dict(trained.state_dict())
    run.accelerator.end_training()
    return AdaptResult(
        run_folder=folder.path,
        steps=run.position.step,
        stopped=stopped,
        before=before,
        after=None if stopped else after,
        load_line=folder.load_line,
        is_main_process=run.accelerator.is_main_process,
        model=None if stopped else trained.eval(),
    )


def _asap_options(model: nn.Module) -> dict[str, Any]:
    arguments = getattr(model, "_model_args", {})
    return {name: value for name, value in arguments.items() if name in AsapOptions.__dataclass_fields__}
