"""What an evaluation leaves behind: the record, what each image did, and the plots."""

from __future__ import annotations

import shlex
from typing import Any

from timm_asap._io import as_json, cut_path, replace_file, sync_file, write_json
from timm_asap.evaluation.attacks import masking_warnings
from timm_asap.evaluation.jobs import Job
from timm_asap.evaluation.per_image import Measured, save_per_image
from timm_asap.evaluation.processes import Processes
from timm_asap.evaluation.record import (
    PER_IMAGE,
    RECORD,
    Record,
    attack_versions,
    clean_of_attacked,
    compose,
    describe_data,
    describe_model,
    produced_by,
    summarize,
)
from timm_asap.training.facts import hardware, hub_id_of, package_versions

__all__ = ["finish", "launcher"]


def finish(job: Job, measured: Measured, processes: Processes, reference: Record | None) -> Record:
    """Write the record of a model, and remove the file that kept its parts.

    Args:
        job: What was measured.
        measured: What came out.
        processes: Who measured it.
        reference: Of mCE.

    Raises:
        UserError: If the disk does not take it; an older record is untouched then, and the parts stay.
    """
    order = {cell.id: place for place, cell in enumerate(job.cells)}
    results = sorted(measured.results, key=lambda result: order.get(result["id"], len(order)))
    measures = {result["measure"] for result in results}
    sample_ids = {name: positions for name, positions in job.positions.items() if name in measures}
    content = compose(
        model=describe_model(job.opened, job.input_size),
        data=describe_data(job.data, hub_id_of(job.data.dataset.name)),
        produced=_produced_by(job, processes),
        results=results,
        summary={
            **summarize(results, masking_warnings(results), reference, job.data.dataset.num_classes),
            "attacked_clean": clean_of_attacked(measured.right, sample_ids),
        },
    )
    path = job.folder / RECORD
    if job.earlier is None:
        # both are whole and on the disk before either replaces an older one
        with replace_file(path) as record, replace_file(job.folder / PER_IMAGE) as per_image:
            record.write_text(as_json(content), encoding="utf-8")
            save_per_image(per_image, measured.right, sample_ids, job.opened.weights_sha256, job.configuration)
            sync_file(record)
            sync_file(per_image)
            path.unlink(missing_ok=True)  # an older record must not stand beside newer answers
    else:
        write_json(path, content)
    job.partial.unlink(missing_ok=True)
    return Record(path, content)


def launcher(processes: Processes) -> list[str]:
    """The words that start this program again in as many processes."""
    if processes.count == 1:
        return ["timm-asap"]
    if processes.device.type == "cpu":  # of which `accelerate launch` starts only one without MPI
        return ["torchrun", "--nproc-per-node", str(processes.count), "-m", "timm_asap.cli"]
    return ["accelerate", "launch", "--num_processes", str(processes.count), "-m", "timm_asap.cli"]


def _produced_by(job: Job, processes: Processes) -> dict[str, Any]:
    if job.earlier is not None:  # nothing was measured now
        return job.earlier.content["produced_by"]
    config = job.config
    # for others to read: without the folders that only their owner has, and without what to do with an older record
    shown: dict[str, Any] = {
        "models": tuple(cut_path(name) for name in config.models),
        "dataset": cut_path(config.dataset),
    }
    for name in ("data_dir", "output", "reference"):
        value = getattr(config, name)
        shown[name] = None if value is None else cut_path(value)
    words = [*launcher(processes), "evaluate", *config.flags(**shown, resume=False, overwrite=False)]
    return produced_by(
        command=shlex.join(words),
        hardware=hardware(processes.device),
        processes=processes.count,
        batch_size=config.batch_size,
        versions=package_versions() | attack_versions(),
    )
