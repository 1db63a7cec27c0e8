"""Modules by their older paths: what names them still loads."""

import pickle
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from torch import nn

import timm_asap
from timm_asap._moved import MOVED

# `torch.save` of a converted layer writes such a list of globals.
CORE = {
    "attention": "reducing_attention",
    "convert": "convert",
    "functional_sites": "functional_site",
    "geometry": "Geometry",
    "layers": "AsapPool2d",
    "reference": "released_pool2d",
    "report": "ConversionReport",
    "reparameterize": "reparameterize",
    "spectral": "lowpass_matrix",
    "strided": "AsapSpec",
    "trace": "trace_layers",
}


@pytest.mark.filterwarnings("ignore:timm_asap:DeprecationWarning")
@pytest.mark.parametrize("module", CORE)
def test_older_paths_give_the_same_objects(module):
    old = import_module(f"timm_asap.{module}")
    assert old.__name__.count(".") == 2
    assert getattr(old, CORE[module]) is getattr(import_module(old.__name__), CORE[module])
    assert callable(timm_asap.convert)
    assert callable(timm_asap.reparameterize)


@pytest.mark.filterwarnings("ignore:timm_asap:DeprecationWarning")
def test_every_older_path_is_a_module_of_today():
    for old, new in MOVED.items():
        assert import_module(old) is import_module(new)


def test_an_older_path_warns():
    code = "import timm_asap.training.figures as figures; print(figures.__name__)"
    ended = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "timm_asap.figures\n"
    assert "timm_asap.training.figures is timm_asap.figures now" in ended.stderr


def test_an_unknown_path_is_no_module():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'timm_asap\.training\.nothing'"):
        import_module("timm_asap.training.nothing")


@pytest.mark.filterwarnings("ignore:timm_asap:DeprecationWarning")
def test_pickles_written_before_the_move_load():
    layer = nn.Conv2d(3, 4, 3, stride=2)
    timm_asap.convert(layer)
    data = pickle.dumps(layer, protocol=0)  # names in plain text, without their lengths
    assert b"timm_asap.conversion." in data
    old = pickle.loads(data.replace(b"timm_asap.conversion.", b"timm_asap."))
    x = torch.randn(1, 3, 8, 8)
    assert type(old) is type(layer)
    assert torch.equal(old(x), layer(x))


@pytest.mark.filterwarnings("ignore:timm_asap:DeprecationWarning")
def test_whole_layers_saved_by_their_older_path_load():
    pool = timm_asap.AsapPool2d(3)
    data = pickle.dumps(pool, protocol=0)
    assert b"timm_asap.ops.layers" in data
    old = pickle.loads(data.replace(b"timm_asap.ops.layers", b"timm_asap.layers"))
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(old(x), pool(x))
