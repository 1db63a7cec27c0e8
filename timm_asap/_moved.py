"""Modules by their older paths: programs and whole-model pickles that name them still load.

Importing an older path gives the module where its contents are now, with a `DeprecationWarning`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "find_moved_modules"]

# The module of today, and the older ones whose contents are in it.
_NOW = {
    "_startup": "_start _interrupt",
    "figures": "training.figures",
    "provenance": "training.facts",
    "machine": "threads zoo.memory",
    "ops.layers": "layers",
    "ops.resample": "resample",
    "ops.sliding_max": "sliding_max",
    "ops.traced": "traced",
    "conversion.check": "conversion.observe trace",
    "conversion.geometry": "geometry",
    "conversion.report": "conversion.found report",
    "conversion.sites": "attention functional_sites",
    "conversion.strided": "strided",
    "zoo.hub_files": "zoo.downloads",
    "data.augment": "data.mixing",
    "data.folder_tree": "data.data_files",
    "data.config": "data.options",
    "data.load": "data.digits",
    "data.loader": "data.batches",
    "data.small_images": "data.small_augment data.small_transform",
    "data.split_choice": "data.holdout",
    "data.splits": "data.unreadable",
    "data.stream_records": "data.stream_images",
    "data.unlabeled": "data.unlabelled",
    "adversarial": "evaluation.attacks",
    "adversarial.attacks": "adversarial.model adversarial.modes",
    "adversarial.autoattack": "evaluation.attacks.autoattack evaluation.attacks.run",
    "adversarial.config": "adversarial.eps evaluation.attacks.spec",
    "adversarial.losses": "adversarial.training",
    "adversarial.masking": "evaluation.attacks.masking",
    "training.checkpoint": "training.checkpoints training.random_state",
    "training.config": "training.recipe",
    "training.display": "training.progress training.plots training.tracking",
    "training.export": "training.saving",
    "training.loop": "training.finish",
    "training.plan": "training.loaders",
    "training.run": "training.state",
    "training.setup": "training.network training.optimizer",
    "evaluation.aliasing.energy": "evaluation.aliasing.fixed_filter",
    "evaluation.corruptions.apply": "evaluation.corruptions.checks",
    "evaluation.corruptions.digital": "evaluation.corruptions.elastic",
    "evaluation.corruptions.filters": "evaluation.corruptions.draws",
    "evaluation.corruptions.weather": "evaluation.corruptions.frost evaluation.corruptions.spatter",
    "evaluation.finish": "evaluation.pictures",
    "evaluation.measurements": "evaluation.cells evaluation.processes",
    "evaluation.models": "evaluation.pixels",
    "evaluation.plots.overview": "evaluation.plots.summary evaluation.plots.contact_sheet evaluation.plots.folder",
    "evaluation.plots.robustness": "evaluation.plots.records evaluation.plots.corruptions evaluation.plots.attacks "
    "evaluation.plots.shift",
    "evaluation.sources": "evaluation.folders",
    "evaluation.statistics": "evaluation.intervals evaluation.mce",
    "healing.fidelity": "healing.report",
    "healing.least_squares": "healing.patches",
    "healing.pair": "healing.plain healing.blend",
    "hub.checks": "hub.run_checks hub.card_check",
    "hub.edits": "hub.hub_edits",
    "hub.publishing": "hub.verification",
    "hub.remote": "hub.difference",
    "hub.cards.base_model": "hub.cards.origin",
    "hub.cards.limitations": "hub.cards.limits",
    "hub.cards.metadata": "hub.cards.citations hub.cards.licences",
    "hub.cards.records": "hub.cards.record_types",
    "hub.cards.results": "hub.cards.markdown hub.cards.accuracy hub.cards.robustness",
    "hub.cards.training": "hub.cards.making",
    "hub.cards.user_sections": "hub.cards.kept",
    "demo.app": "demo.hidden_paths",
    "demo.predictions": "demo.pictures demo.answers demo.spectra demo.examples",
}

MOVED = {f"timm_asap.{old}": f"timm_asap.{new}" for new, names in _NOW.items() for old in names.split()}
"""The module of today by its older path."""


class _MovedModule(Loader):
    """Puts the module of today in the place of an older one."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        warnings.warn(f"{old} is {MOVED[old]} now", DeprecationWarning, stacklevel=2)
        sys.modules[old] = import_module(MOVED[old])  # importlib gives what lies here to whoever imports


class _MovedModules(MetaPathFinder):
    """Finds the older paths."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MOVED:
            return None
        # a package, so that modules under an older package are looked for
        return ModuleSpec(fullname, _MovedModule(), is_package=True)


def find_moved_modules() -> None:
    """Make older paths importable; a second call changes nothing."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        # before Python's own, which would find `evaluation.attacks.run` a second time under the package of today
        sys.meta_path.insert(0, _MovedModules())
