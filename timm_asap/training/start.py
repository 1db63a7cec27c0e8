"""The start of a run, new or continued: everything the loop works with, and the folder to write to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from timm.utils import ModelEmaV3
from torch import nn

from timm_asap import machine
from timm_asap._lock import refuse_if_locked_by_another_launch, shared_folder_lock
from timm_asap.adversarial import PixelModel
from timm_asap.errors import UserError
from timm_asap.provenance import run_facts
from timm_asap.training.config import TrainConfig, to_yaml
from timm_asap.training.display import ProgressDisplay, check_tracker, start_tracker
from timm_asap.training.export import finish_epoch
from timm_asap.training.objective import Objective
from timm_asap.training.plan import (
    Plan,
    build_test_loader,
    build_train_loader,
    describe_data,
    make_plan,
    watched_images,
)
from timm_asap.training.run import EpochSums, Run, memory_format_of, restore_state
from timm_asap.training.run_folder import RunFolder
from timm_asap.training.settle import settle_machine
from timm_asap.training.setup import build_optimizer, build_scheduler


def start_run(
    config: TrainConfig,
    plan_for: Callable[[TrainConfig, int], Plan] | None = None,
    records_of: Callable[[Plan, Accelerator], tuple[str, dict[str, Any]]] | None = None,
) -> Run:
    """Put together what was asked for; the folder is written to only when all of it fits.

    Args:
        config: The run.
        plan_for: Gives the data and the networks for a configuration and a number of processes; by default `make_plan`.
        records_of: Gives the text of config.yaml and the contents of run.json; by default those of `train.py`.

    Returns:
        The run; its folder is this run's alone until `held` is closed.

    Raises:
        UserError: If it cannot be run, or another process writes to its folder.
    """
    check_tracker(config.tracker)
    config = settle_machine(config, on_cpu=not torch.accelerator.is_available())
    accelerator = _create_accelerator(config)
    set_seed(config.seed)
    folder = RunFolder(config.run_folder, config.keep_checkpoints)
    refuse_if_locked_by_another_launch(folder.path)
    plan = (plan_for or make_plan)(config, accelerator.num_processes)
    folder.check(resume=config.resume, overwrite=config.overwrite)
    chosen = _settle_threads(plan, folder, accelerator)
    run = _prepare(plan, folder, accelerator)
    for note in plan.config.notes:
        run.display.say(f"adapted: {note}")
    if chosen is not None:
        run.display.say(chosen)
    with ExitStack() as stack:
        stack.enter_context(_owned(folder, accelerator, config))
        _continue_or_begin(run, records_of or _records)
        run.held = stack.pop_all()
    return run


def _records(plan: Plan, accelerator: Accelerator) -> tuple[str, dict[str, Any]]:
    return to_yaml(plan.config), run_facts(plan, accelerator)


def _settle_threads(plan: Plan, folder: RunFolder, accelerator: Accelerator) -> str | None:
    """As many threads as the network makes use of, where nobody has said how many; a line on it.

    A run that is continued keeps its number: another one adds up in another order, and ends a few bits apart.
    """
    if accelerator.device.type != "cpu" or accelerator.num_processes > 1 or machine.set_by_user():
        return None
    before = folder.facts().get("threads") if plan.config.resume else None
    if isinstance(before, int) and before > 0:
        torch.set_num_threads(before)
        return None
    if machine.cores() == 1:
        return None
    step = machine.training_step(plan.model, plan.train_size or plan.pixels.size)
    return str(machine.choose_threads(step, plan.config.batch_size))


@contextmanager
def _owned(folder: RunFolder, accelerator: Accelerator, config: TrainConfig) -> Iterator[None]:
    """Be the only run in a folder, and put back what `--overwrite` replaced where the run comes to no checkpoint."""
    with shared_folder_lock(folder.path, "train.py"):
        if accelerator.is_main_process:
            folder.recover()
        accelerator.wait_for_everyone()
        folder.check(resume=config.resume, overwrite=config.overwrite)
        accelerator.wait_for_everyone()  # every process has looked before one of them writes
        try:
            yield
        except BaseException as error:
            if accelerator.is_main_process and folder.restore() and isinstance(error, UserError):
                raise UserError(f"{error}; what --overwrite had replaced is back in {folder.path}") from error
            raise


def _create_accelerator(config: TrainConfig) -> Accelerator:
    # --batch-size is that of an optimizer step: accelerate splits each batch over the processes
    loading = DataLoaderConfiguration(split_batches=True, non_blocking=True)
    precision = "no" if config.mixed_precision == "fp32" else config.mixed_precision
    # several processes without a GPU must be told so: accelerate 1.15 would run each as if it were alone
    cpu = not torch.accelerator.is_available()
    options: dict[str, Any] = {"dynamo_backend": "inductor"} if config.compile else {}
    if config.tracker is not None:
        logs = ProjectConfiguration(logging_dir=str(config.run_folder / "tracker"))
        options |= {"log_with": config.tracker, "project_config": logs}
    try:
        accelerator = Accelerator(cpu=cpu, mixed_precision=precision, dataloader_config=loading, **options)
    except ValueError as error:  # a precision that the device does not have
        raise UserError(f"--mixed-precision {config.mixed_precision}: {error}") from error
    on_cpu = accelerator.device.type == "cpu"
    if accelerator.mixed_precision == "fp16" and on_cpu:
        raise UserError("--mixed-precision fp16 needs a GPU: expected fp32 or bf16 on a CPU")
    if config.ema is not None and accelerator.distributed_type == DistributedType.FSDP:
        raise UserError("--ema keeps whole weights, and FSDP has them in shards: leave one of them out")
    return accelerator


def _prepare(plan: Plan, folder: RunFolder, accelerator: Accelerator) -> Run:
    """Model, optimizer, schedule and loaders, spread over the devices."""
    config = plan.config
    model: nn.Module = plan.model
    if config.attack is not None:
        model = PixelModel(model, plan.pixels.mean, plan.pixels.std)
    if config.sync_bn:
        from timm.layers import convert_sync_batchnorm

        model = convert_sync_batchnorm(model)
    model = model.to(memory_format=memory_format_of(config))
    sharded = accelerator.distributed_type == DistributedType.FSDP
    blank = copy.deepcopy(model) if sharded else None
    optimizer = build_optimizer(model, config, plan.lr_scales)
    train_loader = build_train_loader(plan, accelerator)
    val_loader = None if plan.dataset.val is None else build_test_loader(plan, plan.dataset.val, accelerator)
    test_loader = build_test_loader(plan, plan.dataset.test, accelerator)
    model, optimizer = accelerator.prepare(model, optimizer)
    ema = None
    if config.ema is not None:
        ema = ModelEmaV3(accelerator.unwrap_model(model, keep_torch_compile=False), config.ema, use_warmup=True)
    objective = Objective(plan, accelerator)
    batches_per_epoch = config.steps_per_epoch or len(train_loader)
    # each process draws its own dropout masks; a checkpoint holds the state of each
    set_seed((config.seed + accelerator.process_index) % 2**32)  # NumPy takes no larger seed
    return Run(
        plan=plan,
        folder=folder,
        accelerator=accelerator,
        objective=objective,
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, config, batches_per_epoch * objective.replays),
        train_loader=train_loader,
        val_loader=val_loader,
        test_loader=test_loader,
        display=ProgressDisplay(
            config.epochs,
            batches_per_epoch,
            config.batch_size,
            silent=not accelerator.is_main_process,
            measure="accuracy" if plan.labeled else "agreement",
        ),
        batches_per_epoch=batches_per_epoch,
        ema=ema,
        watched=None if config.attack is None else watched_images(plan, accelerator),
        blank=blank,
    )


def _continue_or_begin(run: Run, records_of: Callable[[Plan, Accelerator], tuple[str, dict[str, Any]]]) -> None:
    """Take up the newest checkpoint where the run is continued, and write the first records."""
    run.sums = EpochSums(losses=torch.zeros(run.batches_per_epoch, device=run.accelerator.device))
    found = run.folder.checkpoints.newest() if run.plan.config.resume else None
    if found is not None:
        path, state = found
        run.sums = restore_state(run, state, path)
        run.sums.losses = run.sums.losses.to(run.accelerator.device)
        run.scheduler.step_update(run.position.step)
        run.saved_epoch = run.position.epoch
    if run.accelerator.is_main_process:
        for line in describe_data(run.plan.dataset):
            run.display.say(line)
        text, facts = records_of(run.plan, run.accelerator)
        if found is None:
            run.folder.start(text, facts)
        else:
            run.folder.resume(text, facts, run.position.epoch)
            within = f", batch {run.position.batch} of the next" if run.position.batch else ""
            run.display.say(f"continuing {run.folder.path} after epoch {run.position.epoch}{within}")
        start_tracker(run.accelerator, run.plan.config)
    if found is not None and run.position.epoch and not run.position.batch:
        finish_epoch(run)  # the disk may have had no room for it
