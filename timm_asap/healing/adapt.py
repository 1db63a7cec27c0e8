"""Label-free distillation of the plain network into its twin, through the training loop of `train.py`."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, DistributedType
from torch import nn

from timm_asap._io import cut_path, read_json, write_json
from timm_asap._types import present
from timm_asap.command_line import flag
from timm_asap.data.splits import counted
from timm_asap.errors import UserError
from timm_asap.healing.adapt_plan import load_network_pair, load_unlabeled, make_adapt_plan, steps_in_minutes
from timm_asap.healing.fidelity import Fidelity, Outputs, compare_outputs, outputs_of
from timm_asap.healing.heal import heal
from timm_asap.healing.pair import Blend
from timm_asap.provenance import run_facts
from timm_asap.training.adapt_options import AdaptConfig
from timm_asap.training.display import learning_curves
from timm_asap.training.epoch import Stopped, start_sums, train_epoch
from timm_asap.training.export import export_model, save_checkpoint
from timm_asap.training.plan import Plan, build_test_loader
from timm_asap.training.run import Run
from timm_asap.training.run_folder import ADAPTATION, RunFolder
from timm_asap.training.start import start_run
from timm_asap.zoo import AsapOptions

__all__ = ["AdaptConfig", "AdaptResult", "adapt", "run_adaptation"]

# Where a continued run may differ from what it was started as.
_MAY_CHANGE_ON_RESUME = frozenset({"output", "data_dir", "images", "num_workers", "skip_unreadable"})


_REFIT_IMAGES = 320


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
    at_first_step: Fidelity | None
    """Of the twin that was trained: after the closed-form repairs, where they were made and helped. On the main process
    alone; None where the run was stopped."""
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
        images: A folder of images without labels, or normalized images as the network takes them: a float tensor
            (N, C, H, W); of these, a fifth is held out to measure on. None where `dataset` names a data set.
        **options: Fields of `AdaptConfig`, such as `steps`, `minutes`, `output`, `seed`, `resume`.

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
        tensor: Normalized images, in place of those that `config.images` names.

    Raises:
        UserError: If it cannot be run.
    """
    folder = RunFolder(config.run_folder)
    folder.check(resume=config.resume, overwrite=config.overwrite)
    config = _as_it_was_started(config, folder) if config.resume else config
    starts = not (config.resume and folder.checkpoints.files())
    pair = load_network_pair(config, network)
    dataset = load_unlabeled(config, pair, tensor)
    config = replace(config, steps=config.steps or steps_in_minutes(config, pair, dataset), minutes=None)
    plan = make_adapt_plan(config, pair, dataset)
    held_out = _HeldOut(plan, pair.plain)
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


class _HeldOut:
    """The images that nothing is trained on, and the teacher's outputs for them."""

    def __init__(self, plan: Plan, teacher: nn.Module) -> None:
        self._plan, self._teacher = plan, teacher
        self._reference: Outputs | None = None

    def _batches(self) -> Any:
        return (images for images, _ in build_test_loader(self._plan, self._plan.dataset.test))

    def fidelity(self, model: nn.Module) -> Fidelity:
        """Of a model, on the device it is on."""
        if self._reference is None:
            self._reference = outputs_of(self._teacher, self._batches())
        return compare_outputs(self._reference, outputs_of(model, self._batches()))


def _heal_first(config: AdaptConfig, plan: Plan) -> Any:
    """The closed-form repairs, on some training images."""
    train = counted(plan.dataset.train)
    few = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed))[:_REFIT_IMAGES]
    subset = replace(plan.dataset, train=train.select(few))
    batches = (images for images, _ in build_test_loader(replace(plan, dataset=subset), subset.train))
    return heal(plan.model, batches, refit="all", plain=plan.teacher)


def _start_blend(config: AdaptConfig, run: Run) -> Blend | None:
    """Let the plain strides turn into the alias-free ones as the run's steps go by; what is measured is the twin."""
    if not config.blend or config.steps is None:  # the steps are settled before a run starts
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
        "seconds": present(run.sums, "sum of the epoch").seconds + time.perf_counter() - began,
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
    at_first_step = None
    if run.accelerator.is_main_process and after is not None and not stopped:
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
        at_first_step = Fidelity(**record["at_first_step"])
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
        at_first_step=at_first_step,
        after=None if stopped else after,
        load_line=folder.load_line,
        is_main_process=run.accelerator.is_main_process,
        model=None if stopped else trained.eval(),
    )


def _asap_options(model: nn.Module) -> dict[str, Any]:
    arguments = getattr(model, "_model_args", {})
    return {name: value for name, value in arguments.items() if name in AsapOptions.__dataclass_fields__}
