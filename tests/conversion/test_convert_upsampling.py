"""What makes a grid finer: reported always, low-passed where it is asked for."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from timm_asap import asap_upsample2d, convert, lowpass2d
from timm_asap.conversion import watch
from timm_asap.conversion.check import share_above as share_of_energy
from timm_asap.conversion.strided import detach


def share_above(y):
    return share_of_energy(y.detach(), (2, 3), (2, 2))


def image(*size, channels=3, seed=0):
    return torch.randn(2, channels, *(size or (32, 32)), generator=torch.Generator().manual_seed(seed))


class UNet(nn.Module):
    """Two levels down and up again, by every means."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear")
        self.shuffle = nn.Sequential(nn.Conv2d(4, 12, 1), nn.PixelShuffle(2))
        self.maps = {}

    def forward(self, x):
        first = self.first(x)
        second = self.second(F.relu(first))
        self.maps = {
            "transposed": self.up(second),
            "upsample": self.upsample(second),
            "shuffle": self.shuffle(first),
            "call": F.interpolate(first, scale_factor=2, mode="nearest"),
            "unknown": F.interpolate(second, size=first.shape[-2:]),
        }
        return self.shuffle(first + self.up(second)) + self.maps["call"].mean(1, keepdim=True)


NAMES = {"up", "upsample", "shuffle.1", ""}


def test_upsampling_is_reported_and_left_unless_it_is_asked_for():
    model, x = UNet(), image()
    assert sum(operation.upsamples for operation in watch(model, x)) == 7
    report = convert(model, example=x)
    assert {row.name for row in report.upsampling} == NAMES
    assert {row.reason for row in report.upsampling} == {"upsampling=False"}
    assert report.complete
    assert {site.name for site in report.sites} == {"first", "second"}
    assert type(model.up) is nn.ConvTranspose2d
    assert type(model) is UNet
    static = convert(UNet())
    assert {row.name for row in static.upsampling} == NAMES
    assert "upsampling layers" not in str(static)


@pytest.mark.parametrize("watched", [True, False])
def test_a_u_net_without_images_of_the_spectrum(watched):
    torch.manual_seed(0)
    plain, x = UNet(), image()
    model = copy.deepcopy(plain)
    plain(x)
    assert min(share_above(y) for y in plain.maps.values()) > 0.01
    report = convert(model, upsampling=True, example=x if watched else None)
    assert {row.name for row in report.upsampling if row.converted} == NAMES
    assert not watched or report.complete
    y = model(x)
    assert y.shape == plain(x).shape
    assert max(share_above(y) for y in model.maps.values()) < 1e-8
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.maps = {}
    assert torch.equal(copy.deepcopy(model)(x), y)
    model.maps = {}
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), y)
    again = convert(model, upsampling=True)
    assert not again.converted
    assert not any(row.converted for row in again.upsampling)
    for module in (model, *(model.get_submodule(name) for name in NAMES if name)):
        detach(module)
    for name in ("first", "second"):
        detach(model.get_submodule(name))
    assert torch.equal(model(x), plain(x))


def test_what_each_layer_computes():
    x = image(9, 8, channels=4)
    for layer in (nn.ConvTranspose2d(4, 3, 3, 2, 1, 1), nn.Upsample(scale_factor=2), nn.PixelShuffle(2)):
        plain = copy.deepcopy(layer)
        report = convert(layer, upsampling=True)
        assert report.upsampling[0].becomes == "the layer, then low-pass"
        torch.testing.assert_close(layer(x), lowpass2d(plain(x)))
    layer = nn.Upsample(scale_factor=3)
    assert convert(layer, upsampling=True, layout="paper").upsampling[0].becomes == "the transpose of the pool"
    torch.testing.assert_close(layer(x), asap_upsample2d(x, 3, "asap"))
    sequence = image(9)
    layer = nn.Sequential(nn.Upsample(scale_factor=2), nn.ConvTranspose1d(3, 3, 4, 2, 1))
    assert len(convert(layer, upsampling=True, example=sequence).upsampling) == 2
    assert layer(sequence).shape == (2, 3, 36)
    volume = image(3, 4, 5)
    layer = nn.Sequential(nn.Upsample(scale_factor=(1.0, 2.0, 2.0)), nn.ConvTranspose3d(3, 3, 2, 2))
    assert len(convert(layer, upsampling=True, example=volume).upsampling) == 2
    assert convert(nn.Upsample(scale_factor=1.5), upsampling=True).upsampling == ()


def test_an_output_size_passes_through():
    layer, x = nn.ConvTranspose2d(3, 3, 3, 2, 1), image(5, 5)
    convert(layer, upsampling=True)
    assert layer(x, output_size=(10, 10)).shape == (2, 3, 10, 10)


# PyTorch 2.7 warns of its own graphs.
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@pytest.mark.filterwarnings("ignore:.*does not reference an nn.Module:UserWarning")
def test_in_graphs():
    torch._dynamo.reset()
    model, x = UNet().eval(), image()
    convert(model, upsampling=True)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.upsample = model.up, model.upsample

        def forward(self, x):
            return self.upsample(self.up(x))

    net, x = Net(), image(channels=8)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(x), net(x))
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))
    torch.testing.assert_close(torch.fx.symbolic_trace(net)(x), net(x))
