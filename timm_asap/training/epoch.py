"""One epoch: a pass over the training images, and one over the images that it is measured on."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import reduce

import torch
import torch.nn.functional as F
from timm.utils import dispatch_clip_grad
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from timm_asap._types import present
from timm_asap.adversarial import survives_pgd
from timm_asap.data import PADDING_LABEL, StreamLoader
from timm_asap.errors import UserError
from timm_asap.training.export import save_checkpoint
from timm_asap.training.run import EpochSums, Run


class Stopped(Exception):  # noqa: N818 (it is a request, not an error)
    """The run was asked to stop; its state is saved."""


def train_epoch(run: Run, epoch: int) -> dict[str, float]:
    """One pass over the training images, or what is left of it.

    Args:
        run: The run.
        epoch: Counted from 0.

    Returns:
        Loss as it was trained on, accuracy (percent, of the images as they were trained on) and throughput over all
        processes.

    Raises:
        UserError: If the loss of a step is not a number.
        Stopped: If the run was asked to stop.
    """
    config, accelerator, position, sums = run.plan.config, run.accelerator, run.position, run.epoch_sums
    correct = torch.zeros((), dtype=torch.int64, device=accelerator.device)
    seen = position.batch
    batches_per_look = _batches_per_look(accelerator.device)
    _set_training_mode(run)
    run.display.begin_epoch(epoch, position.batch)
    began = time.perf_counter()

    for images, labels in run.batches_from(epoch, position.batch):
        loss, hits = _train_on_batch(run, images, labels, epoch)
        sums.losses[position.batch] = loss
        correct += hits
        position.batch += 1
        last = position.batch == run.batches_per_epoch
        due = config.checkpoint_steps is not None and position.batch % config.checkpoint_steps == 0
        if last or due or position.batch % batches_per_look == 0:
            stop = _look(run, seen, correct)
            correct.zero_()
            seen = position.batch
            run.display.show_step(epoch, seen, sums.losses[:seen].mean().item(), run.training_accuracy)
            if stop or (due and not last):
                sums.seconds += time.perf_counter() - began
                began = time.perf_counter()
                save_checkpoint(run)
            if stop:
                raise Stopped

    sums.seconds += time.perf_counter() - began
    return {
        "train_loss": sums.losses.double().mean().item(),
        "train_accuracy": run.training_accuracy,
        "images_per_s": run.batches_per_epoch * config.batch_size / sums.seconds,
    }


def _set_training_mode(run: Run) -> None:
    run.model.train()
    if run.plan.config.freeze_bn:
        for layer in run.model.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()


def _train_on_batch(
    run: Run, images: torch.Tensor, labels: torch.Tensor, epoch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The optimizer's step, or steps, on a batch: its mean loss on this process, and how many images were right."""
    config, accelerator, objective = run.plan.config, run.accelerator, run.objective
    images, targets = objective.targets(images, labels, epoch, run.position.batch)
    images = images.contiguous(memory_format=run.memory_format)
    losses: list[torch.Tensor] = []
    hits: list[torch.Tensor] = []
    for _ in range(objective.replays):
        losses.clear()
        hits.clear()
        parts = list(zip(*(whole.chunk(config.accumulate) for whole in (images, targets, labels)), strict=True))
        for part, (some_images, some_targets, some_labels) in enumerate(parts, start=1):
            # gradients travel between the processes once, with the last part
            with nullcontext() if part == len(parts) else accelerator.no_sync(run.model):
                of_part = objective(run.model, some_images, some_targets)
                accelerator.backward(of_part.loss / len(parts))
            losses.append(of_part.loss.detach() / len(parts))
            right = some_labels if of_part.right is None else of_part.right
            hits.append((of_part.scores.argmax(dim=1) == right).sum())
        objective.after_backward()
        _clip_gradients(run)
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.position.step += 1
        run.scheduler.step_update(run.position.step)
        if run.ema is not None:
            run.ema.update(accelerator.unwrap_model(run.model), step=run.position.step)
    return reduce(torch.add, losses), reduce(torch.add, hits)


def _clip_gradients(run: Run) -> None:
    config = run.plan.config
    if config.clip_grad is None:
        return
    if config.clip_mode == "norm":  # accelerate's own knows how weights are sharded
        run.accelerator.clip_grad_norm_(run.model.parameters(), config.clip_grad)
        return
    run.accelerator.unscale_gradients()
    dispatch_clip_grad(run.model.parameters(), config.clip_grad, mode=config.clip_mode)


def _look(run: Run, seen: int, correct: torch.Tensor) -> bool:
    """What the processes have to tell each other every so often.

    Args:
        run: The run; losses since the last look become means over the processes, and its sums grow.
        seen: The batch of the last look.
        correct: Images that were answered right since then, on this process.

    Returns:
        Whether any process was asked to stop.

    Raises:
        UserError: If a loss is not a number, on all processes alike.
    """
    losses = run.epoch_sums.losses[seen : run.position.batch].double()
    told = torch.cat([losses, losses.new_tensor([float(correct), float(run.stop.asked)])])
    told = run.reduced(told, "mean").tolist()
    processes = run.accelerator.num_processes
    *means, right, asked = told
    run.epoch_sums.losses[seen : run.position.batch] = torch.tensor(means, device=losses.device)
    run.epoch_sums.correct += round(right * processes)
    _stop_if_diverged(run, means)
    return asked > 0


@torch.no_grad()
def evaluate(run: Run, loader: DataLoader | StreamLoader, split: str) -> dict[str, float]:
    """Loss and accuracy (percent) over a split, each image counted once.

    Args:
        run: The run; its averaged weights are measured where it averages.
        loader: The split's loader.
        split: "test" or "val", what the record calls it.
    """
    losses, hits = [], []
    model = run.tested_model.eval()
    for images, labels in loader:
        images, labels = images.to(run.device), labels.to(run.device)
        with run.accelerator.autocast():
            scores = model(images.contiguous(memory_format=run.memory_format))
        loss = F.cross_entropy(scores.float(), labels, reduction="none", ignore_index=PADDING_LABEL)
        answers = (loss, scores.argmax(dim=1) == labels, labels != PADDING_LABEL)
        loss, hit, counts = run.accelerator.gather_for_metrics(answers)
        losses.append(loss[counts])
        hits.append(hit[counts])
    loss = torch.cat(losses).double().mean().item()
    _stop_if_diverged(run, [loss])
    hits = torch.cat(hits)
    accuracy = 100 * hits.sum().item() / len(hits)
    return {f"{split}_loss": loss, f"{split}_accuracy": accuracy, f"{split}_images": len(hits)}


def watch_robustness(run: Run) -> dict[str, float]:
    """Accuracy (percent) under PGD of some held-out images: where training by FGSM loses it, it is overfitted."""
    if run.objective.attack is None:
        return {}
    images, labels = present(run.watched, "image that is watched")
    standing = survives_pgd(run.tested_model, images, labels, run.objective.attack)
    counts = torch.tensor([standing.sum(), len(standing)], dtype=torch.float64, device=images.device)
    right, watched = run.reduced(counts, "sum").tolist()
    return {"pgd_accuracy": 100 * right / watched}


def start_sums(run: Run) -> EpochSums:
    """Those of an epoch that nothing was done in."""
    return EpochSums(losses=torch.zeros(run.batches_per_epoch, device=run.accelerator.device))


def _batches_per_look(device: torch.device) -> int:
    """Batches between looks at the loss: each look waits for a GPU, a CPU has nothing to wait for."""
    return 1 if device.type == "cpu" else 10


def _stop_if_diverged(run: Run, losses: list[float]) -> None:
    """Look at the losses of the last batches, the newest last."""
    for batches_ago, loss in zip(range(len(losses) - 1, -1, -1), losses, strict=True):
        if not torch.isfinite(torch.tensor(loss)):
            kept = run.folder.checkpoints.files()
            state = f"{kept[0]} keeps epoch {run.saved_epoch}" if kept else "no epoch was finished"
            raise UserError(
                f"the loss is {loss} at step {run.position.step - batches_ago * run.objective.replays} "
                f"(epoch {run.position.epoch + 1}); {state}: lower --lr {run.plan.config.lr:g} "
                "or raise --warmup-epochs, and start again with --overwrite"
            )
