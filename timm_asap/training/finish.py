"""The end of a run: what the weights that it leaves behind reach on the test split."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap._io import state_sha256
from timm_asap.data import PADDING_LABEL
from timm_asap.errors import UserError
from timm_asap.training.loaders import build_test_loader
from timm_asap.training.run import Run
from timm_asap.training.saving import export_best_again
from timm_asap.zoo import load


def measure_exported_model(run: Run) -> None:
    """Write result.json: the test split, looked at with the exported weights.

    Where no validation split chose them, they are the last epoch's, which has just been tested. Otherwise the main
    process tests them now, for the first time.
    """
    export_best_again(run)
    if not run.accelerator.is_main_process:
        return
    model = load(f"local-dir:{run.folder.path}").eval()
    weights = {"weights_sha256": state_sha256(model.state_dict())}  # a card shows no accuracy of other weights
    if run.plan.dataset.val is None:
        last = run.folder.metrics()[-1]
        names = ("epoch", "test_loss", "test_accuracy", "test_images")
        if missing := [name for name in names if name not in last]:
            raise UserError(
                f"{run.folder.metrics_jsonl}: the line of epoch {last['epoch']} has no {missing[0]}, which was "
                "measured then: put the file back, or start again with --overwrite"
            )
        run.folder.write_result({name: last[name] for name in names} | {"chosen_by": "last epoch"} | weights)
        return
    measured = _measure(run, model)
    chosen_by = f"highest accuracy on {run.plan.dataset.val_name} ({len(run.plan.dataset.val):,} images)"
    run.folder.write_result({"epoch": run.position.best_epoch, **measured, "chosen_by": chosen_by} | weights)


@torch.inference_mode()
def _measure(run: Run, model: nn.Module) -> dict[str, float]:
    """Loss and accuracy (percent) of the exported model on the test split, by this process alone."""
    model = model.to(run.accelerator.device, memory_format=run.memory_format)
    loss, correct, images = 0.0, 0, 0
    mean, std = (torch.tensor(v, device=run.accelerator.device).view(-1, 1, 1) for v in (run.plan.mean, run.plan.std))
    for pixels, labels in build_test_loader(run.plan, run.plan.dataset.test, pixels=True):
        batch = ((pixels.to(mean.device) - mean) / std).contiguous(memory_format=run.memory_format)
        labels = labels.to(mean.device)
        with run.accelerator.autocast():
            scores = model(batch).float()
        loss += F.cross_entropy(scores, labels, reduction="sum", ignore_index=PADDING_LABEL).item()
        correct += (scores.argmax(dim=1) == labels).sum().item()
        images += (labels != PADDING_LABEL).sum().item()
    return {"test_loss": loss / images, "test_accuracy": 100 * correct / images, "test_images": images}
