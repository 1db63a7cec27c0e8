"""The blend from the plain network to its twin: exact at both ends, linear between, in every layout."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from tests.support.heal_networks import images
from timm_asap import convert, lowpass2d
from timm_asap.healing.pair import Blend

NAMES = ["test_resnet", "test_convnext", "test_efficientnet"]


@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_is_the_plain_network_at_0_and_exactly_the_twin_at_1(name, layout):
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=5).eval()
    twin = copy.deepcopy(plain)
    convert(twin, layout=layout)
    x = images(2, size=64)
    with torch.no_grad():
        wanted, untouched = plain(x), twin(x)
        assert not torch.allclose(wanted, untouched, atol=1e-4)
        keys = list(twin.state_dict())
        blend = Blend(twin)
        assert torch.equal(twin(x), untouched)
        blend.amount = 0.0
        assert torch.equal(twin(x), wanted)
        blend.amount = 0.5
        half = twin(x)
        assert not torch.equal(half, wanted)
        assert not torch.equal(half, untouched)
        assert list(twin.state_dict()) == keys
        blend.remove()
        assert torch.equal(twin(x), untouched)
    pickle.loads(pickle.dumps(twin))


def test_a_convolution_sees_the_blended_low_pass():
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    x = images(2)
    with torch.no_grad():
        wanted = layer(0.7 * x + 0.3 * lowpass2d(x))
        convert(model := nn.Sequential(layer))
        Blend(model).amount = 0.3
        torch.testing.assert_close(model(x), wanted)


def test_gradients_reach_the_shared_weights_by_both_paths():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1))
    convert(model)
    blend = Blend(model)
    found = []
    for amount in (0.0, 0.5, 1.0):
        blend.amount = amount
        (gradient,) = torch.autograd.grad(model(images(2)).sum(), model[0].weight)
        found.append(gradient)
    torch.testing.assert_close(found[1], (found[0] + found[2]) / 2)
