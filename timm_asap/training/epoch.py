"""One epoch: a pass over the training images, and one over the test images."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap.data import set_epoch
from timm_asap.errors import UserError
from timm_asap.training.start import Run


def train_epoch(run: Run, epoch: int) -> dict[str, float]:
    """One pass over the training images.

    Returns:
        Loss (with label smoothing), accuracy (percent) and throughput over all processes.

    Raises:
        UserError: If the loss of a step is not a number.
    """
    config, accelerator = run.plan.config, run.accelerator
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    steps = len(run.train_loader)
    losses = torch.zeros(steps, device=accelerator.device)
    correct = torch.zeros((), dtype=torch.int64, device=accelerator.device)
    seen = 0
    steps_per_look = _steps_per_look(accelerator.device)
    run.model.train()
    set_epoch(run.train_loader, epoch)
    run.display.begin_epoch(epoch)
    began = time.perf_counter()
    for step, (images, labels) in enumerate(run.train_loader, start=1):
        scores = run.model(images.contiguous(memory_format=run.memory_format))
        loss = criterion(scores, labels)
        accelerator.backward(loss)
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.position.step += 1
        run.scheduler.step_update(run.position.step)

        losses[step - 1] = loss.detach()
        correct += (scores.argmax(dim=1) == labels).sum()
        if step % steps_per_look == 0 or step == steps:
            # the mean over the processes: all of them see the same, and stop together
            losses[seen:step] = accelerator.reduce(losses[seen:step].clone(), "mean")
            _stop_if_diverged(run, losses[seen:step].tolist())
            seen = step
            loss_so_far, accuracy = losses[:step].mean().item(), _percent(correct, step * len(labels))
            run.display.show_step(epoch, step, loss_so_far, accuracy)
    seconds = time.perf_counter() - began
    return {
        "train_loss": losses.double().mean().item(),
        "train_accuracy": _percent(accelerator.reduce(correct, "sum"), steps * config.batch_size),
        "images_per_s": steps * config.batch_size / seconds,
    }


@torch.no_grad()
def evaluate(run: Run) -> dict[str, float]:
    """Loss and accuracy (percent) over the test split, each image counted once."""
    losses, hits = [], []
    run.model.eval()
    for images, labels in run.test_loader:
        scores = run.model(images.contiguous(memory_format=run.memory_format))
        loss = F.cross_entropy(scores, labels, reduction="none")
        loss, hit = run.accelerator.gather_for_metrics((loss, scores.argmax(dim=1) == labels))
        losses.append(loss)
        hits.append(hit)
    test_loss = torch.cat(losses).double().mean().item()
    _stop_if_diverged(run, [test_loss])
    return {
        "test_loss": test_loss,
        "test_accuracy": _percent(torch.cat(hits).sum(), len(run.plan.dataset.test)),
    }


def _steps_per_look(device: torch.device) -> int:
    """Steps between looks at the loss: each look waits for a GPU, a CPU has nothing to wait for."""
    return 1 if device.type == "cpu" else 10


def _stop_if_diverged(run: Run, losses: list[float]) -> None:
    """Look at the losses of the last steps, the newest last."""
    for steps_ago, loss in zip(range(len(losses) - 1, -1, -1), losses, strict=True):
        if not torch.isfinite(torch.tensor(loss)):
            kept = run.folder.last_checkpoint
            state = f"{kept} keeps epoch {run.position.epoch}" if kept.is_file() else "no epoch was finished"
            raise UserError(
                f"the loss is {loss} at step {run.position.step - steps_ago} "
                f"(epoch {run.position.epoch + 1}); {state}: lower --lr {run.plan.config.lr:g} "
                "or raise --warmup-epochs, and start again with --overwrite"
            )


def _percent(correct: torch.Tensor, total: int) -> float:
    return 100 * correct.item() / total
