"""A run that is ready to be published, trained for an epoch and evaluated. Made once per session."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import timm

import timm_asap
from tests.support.tiny_run import CLASSES, TEST_IMAGES, main, tiny_flags, write_images
from timm_asap.evaluation.models import weights_sha256

_SESSION = tempfile.TemporaryDirectory(prefix="timm_asap_run_")


@functools.cache
def _trained() -> Path:
    base = Path(_SESSION.name)
    flags = tiny_flags(write_images(base / "idx"), base / "run", model="test_resnet_asap", model_kwargs="{}", epochs=1)
    assert main([*flags, "--asap-window", "hamming"]) == 0
    write_evaluation(base / "run")
    shutil.rmtree(base / "run" / "plots", ignore_errors=True)
    (base / "run" / "plots").mkdir()
    (base / "run" / "plots" / "accuracy.png").write_bytes(b"\x89PNG\r\n\0 a picture")
    return base / "run"


def publishable_run(folder: Path) -> Path:
    """Put a copy of the run into a folder; returns the run's folder."""
    return Path(shutil.copytree(_trained(), folder / "run"))


def write_evaluation(run: Path) -> None:
    """Write the record of a measurement on the run's present weights."""
    model = timm.create_model(f"local-dir:{run}", pretrained=True)
    own = model.pretrained_cfg
    record = {
        "version": 1,
        "interval": "95 % bootstrap over images, 10000 resamples, seed 0",
        "model": {
            "name": run.name,
            "architecture": own["architecture"],
            "asap": {key: model._model_args[f"asap_{key}"] for key in ("window", "boundary", "layout", "stem")},
            "parameters": sum(p.numel() for p in model.parameters()),
            "weights_sha256": weights_sha256(model),
            "input_size": list(own["input_size"]),
            "mean": list(own["mean"]),
            "std": list(own["std"]),
        },
        "data": {
            "name": "idx",
            "hub_id": None,
            "source": "idx",
            "split": "test",
            "images": TEST_IMAGES,
            "classes": CLASSES,
            "label_names": list(own["label_names"]),
        },
        "produced_by": {
            "command": "timm-asap evaluate run --dataset idx",
            "versions": {"timm_asap": timm_asap.__version__, "timm": timm.__version__},
            "commit": None,
            "hardware": "x86_64 CPU",
            "processes": 1,
            "batch_size": 20,
        },
        "results": [
            {"measure": "clean", "id": "clean", "images": 20, "accuracy": 55.0, "interval": [35.0, 75.0], "loss": 1.1}
        ],
        "summary": {
            "clean_accuracy": 55.0,
            "corruption_accuracy": None,
            "mce": None,
            "mce_reference": None,
            "gradient_masking": [],
        },
    }
    (run / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n")
