"""Module paths from before `timm_asap.conversion`: what names them still loads."""

import pickle
from importlib import import_module

import pytest
import torch
from torch import nn

import timm_asap

# `torch.save` of a converted layer writes such a list of globals.
MOVED = {
    "attention": "reducing_attention",
    "convert": "convert",
    "functional_sites": "functional_site",
    "geometry": "Geometry",
    "report": "ConversionReport",
    "reparameterize": "reparameterize",
    "strided": "AsapSpec",
    "trace": "trace_layers",
}


RENAMED = {"attention": "sites", "functional_sites": "sites", "trace": "observe"}


@pytest.mark.parametrize("module", MOVED)
def test_old_paths_give_the_same_objects(module):
    old = import_module(f"timm_asap.{module}")
    new = import_module(f"timm_asap.conversion.{RENAMED.get(module, module)}")
    assert getattr(old, MOVED[module]) is getattr(new, MOVED[module])
    assert callable(timm_asap.convert)
    assert callable(timm_asap.reparameterize)


def test_pickles_written_before_the_move_load():
    layer = nn.Conv2d(3, 4, 3, stride=2)
    timm_asap.convert(layer)
    data = pickle.dumps(layer, protocol=0)  # names in plain text, without their lengths
    assert b"timm_asap.conversion." in data
    old = pickle.loads(data.replace(b"timm_asap.conversion.", b"timm_asap."))
    x = torch.randn(1, 3, 8, 8)
    assert type(old) is type(layer)
    assert torch.equal(old(x), layer(x))
