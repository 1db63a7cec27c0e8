"""Healing's refit of convolutions against the gradient of what it minimizes, and the plain copy of a layer."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import CondConv2d, ScaledStdConv2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

import timm_asap
from tests.support.heal_networks import buffers, images, network, same, trained_alike
from timm_asap import convert, heal
from timm_asap.conversion import filtering
from timm_asap.healing import least_squares, plain_copy
from timm_asap.healing.batchnorm import reestimate_batchnorm
from timm_asap.healing.images import ImageBatches
from timm_asap.healing.refit import refit_convolutions

LAYERS = {
    "plain": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    "bias": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "grouped": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 5, stride=2, padding=2, groups=4, bias=False),
    "pointwise": lambda: nn.Conv2d(4, 6, 1, stride=2),
    "2x2": lambda: nn.Conv2d(4, 6, 2, stride=2),
    "pair": lambda: nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0)),
    "dilated": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2),
    "same": lambda: Conv2dSame(4, 6, 3, stride=2),
    "circular": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="circular"),
    "reflect": lambda: nn.Conv2d(4, 6, 4, stride=2, padding=1, padding_mode="reflect"),
}


def gradient(layer, x, target, penalty=0.0, start=None):
    """Of the squared error of a layer's output, and of the penalty, with respect to its weight and bias."""
    loss = (layer(x) - target).square().sum()
    if penalty:
        loss = loss + penalty * (layer.weight - start).square().sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(layer.parameters()))])


def refit(model, x, plain=None, *, ridge=None, positions=64, by_batch=False, batch_size=128, seed=0):
    """The refit alone, on all images and whatever it brings."""
    given = ImageBatches(x, torch.device("cpu"), next(model.parameters()).dtype, batch_size=batch_size)
    plain = plain_copy(model) if plain is None else plain
    return refit_convolutions(model, plain, given, ridge=ridge, positions=positions, by_batch=by_batch, seed=seed)


class TestRefit:
    @pytest.mark.parametrize("layout", ["preserve", "paper"])
    @pytest.mark.parametrize("kind", LAYERS)
    def test_is_the_least_squares_solution(self, kind, layout):
        torch.manual_seed(0)
        plain = LAYERS[kind]().double()
        layer = copy.deepcopy(plain)
        layer.weight.data += 0.2 * torch.randn_like(layer.weight)  # something to put right
        convert(layer, layout=layout)
        x = torch.randn(80, 4, 11, 13, dtype=torch.float64)
        with torch.no_grad():
            target = plain(x)
        fitted = torch.arange(80) % 5 != 0
        before = gradient(layer, x[fitted], target[fitted])
        keys = list(layer.state_dict())
        sites = refit(layer, x, plain, ridge=1e-13, positions=999)
        after = gradient(layer, x[fitted], target[fitted])
        assert after.norm() < 1e-6 * before.norm()
        assert list(layer.state_dict()) == keys
        # the reported error is the one on the images that the fit did not see
        with torch.no_grad():
            error = (layer(x) - target)[~fitted].norm() / target[~fitted].norm()
        (site,) = sites
        assert site.refitted
        assert site.error_after == pytest.approx(error.item(), rel=1e-6)
        assert site.error_after < site.error_before

    def test_a_batch_that_runs_in_parts_is_fitted_as_a_whole(self, monkeypatch):
        def fitted():
            torch.manual_seed(0)
            plain = nn.Conv2d(4, 6, 3, stride=2, padding=1).double()
            layer = copy.deepcopy(plain)
            convert(layer)
            refit(layer, torch.randn(80, 4, 11, 13, dtype=torch.float64), plain)
            return layer.weight

        whole = fitted()
        monkeypatch.setattr(filtering, "_LARGE", 0)
        monkeypatch.setattr(filtering, "_PART", 2**14)
        assert torch.equal(fitted(), whole)

    def test_ridge_is_a_share_of_the_mean_squared_input_and_spares_the_bias(self):
        torch.manual_seed(0)
        plain = nn.Conv2d(4, 6, 3, stride=2, padding=1).double()
        layer = copy.deepcopy(plain)
        layer.weight.data += 0.2 * torch.randn_like(layer.weight)
        layer.bias.data += 0.2
        start = layer.weight.detach().clone()
        convert(layer)
        x = torch.randn(60, 4, 12, 12, dtype=torch.float64)
        fitted = torch.arange(60) % 5 != 0
        columns = F.unfold(timm_asap.lowpass2d(x[fitted]), 3, padding=1, stride=2)
        penalty = 0.5 * columns.square().sum() / columns.shape[1]
        with torch.no_grad():
            target = plain(x)
        before = gradient(layer, x[fitted], target[fitted])
        refit(layer, x, plain, ridge=0.5, positions=999)
        after = gradient(layer, x[fitted], target[fitted], penalty, start)
        assert after.norm() < 1e-9 * before.norm()

    def test_each_repair_brings_a_network_closer_to_the_plain_one(self):
        torch.manual_seed(0)
        x, unseen = images(160, size=32), images(64, size=32, seed=1)
        plain = trained_alike(timm.create_model("test_resnet", num_classes=10), x)
        swapped = copy.deepcopy(plain)
        convert(swapped, layout="paper")
        normed, refitted = copy.deepcopy(swapped), copy.deepcopy(swapped)
        heal(normed, x)
        report = heal(refitted, x, refit=True)
        assert [site.name for site in report.sites] == ["conv1.0", "layer2.0.conv1", "layer3.0.conv2", "layer4.0.conv1"]
        assert all(site.error_after < 0.8 * site.error_before for site in report.refitted[:2])

        def distance(model):
            with torch.no_grad():
                return (model(unseen) - plain(unseen)).norm().item()

        assert distance(normed) < 0.5 * distance(swapped)
        assert distance(refitted) < distance(normed)
        assert refitted.state_dict().keys() == plain.state_dict().keys()
        changed = {k for k, v in plain.named_parameters() if not torch.equal(v, refitted.get_parameter(k))}
        assert changed == {f"{site.name}.weight" for site in report.refitted}

    def test_goes_front_to_back_with_the_healed_network_before_each_site(self):
        """The second layer's solution is that for the input it gets from the refitted first one."""
        x = images(60).double()
        plain = trained_alike(network().double(), x)
        model = copy.deepcopy(plain)
        for layer in (model[0], model[2]):
            layer.weight.data += 0.2 * torch.randn_like(layer.weight)
        convert(model)
        unfitted = copy.deepcopy(model[2])
        sites = refit(model, x, plain, ridge=1e-13, positions=999, by_batch=True, batch_size=60)
        assert [site.name for site in sites if site.refitted] == ["0", "2"]
        reestimate_batchnorm(model, [x])
        with torch.no_grad():
            target = plain[:3](x)
            seen = model[:2](x)
        fitted = torch.arange(60) % 5 != 0
        # Statistics that PyTorch normalized the batch by are biased, those that it keeps are not: by 1 in 3840.
        before, after = (gradient(layer, seen[fitted], target[fitted]).norm() for layer in (unfitted, model[2]))
        assert after < 1e-2 * before

    def test_without_batchnorm_the_running_statistics_stay(self):
        x = images(60)
        model = trained_alike(network(), x)
        convert(model)
        before = buffers(model)
        report = heal(model, x, refit=True, batchnorm=False)
        assert same(buffers(model), before)
        assert report.batchnorm == ()
        assert [stage.name for stage in report.stages] == ["refit"]
        assert len(report.sites) == 2

    @pytest.mark.parametrize("layout", ["preserve", "paper"])
    def test_convnext_has_this_repair_alone(self, layout):
        torch.manual_seed(0)
        model = timm.create_model("test_convnext").eval()
        for layer in model.modules():  # timm starts the blocks at 1e-6, which training raises
            if getattr(layer, "gamma", None) is not None:
                nn.init.constant_(layer.gamma, 0.5)
        convert(model, layout=layout, window="hamming")
        before = copy.deepcopy(model.state_dict())
        sites = refit(model, images(160, size=64))
        assert [site.name for site in sites] == [f"stages.{i}.downsample.1" for i in (1, 2, 3)]
        refitted = [site for site in sites if site.refitted]
        assert refitted
        assert all(site.error_after < site.error_before for site in refitted)
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {f"{site.name}.{p}" for site in refitted for p in ("weight", "bias")}
        assert heal(model, images(160, size=64), refit=True).note.startswith("the network has no BatchNorm")

    def test_every_convolution_from_the_first_converted_one_on(self):
        x = images(80, size=32)
        plain = trained_alike(
            nn.Sequential(
                *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
                *(nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
                *(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
            ),
            x,
        )
        one, every = copy.deepcopy(plain), copy.deepcopy(plain)
        for model in (one, every):
            convert(model)
        assert [site.name for site in heal(one, x, refit=True, plain=plain, batchnorm=False).sites] == ["3"]
        report = heal(every, x, refit="all", plain=plain, batchnorm=False)
        assert [site.name for site in report.sites] == ["3", "6"]  # the first one is in front of it, and stays
        assert torch.equal(every[0].weight, plain[0].weight)
        with torch.no_grad():
            distance = [(model[:7](x) - plain[:7](x)).norm() for model in (one, every)]
        assert distance[1] < distance[0]

    def test_weights_that_the_fit_would_spoil_stay(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(8, 4, 3, stride=2, padding=1))
        plain = copy.deepcopy(model)
        nn.init.normal_(plain[0].weight, std=1e-3)
        convert(model)
        before = copy.deepcopy(model.state_dict())
        model[0].weight.data.copy_(plain[0].weight)  # nearly right already; six rows can only be learnt by heart
        before = copy.deepcopy(model.state_dict())
        report = heal(model, torch.randn(6, 8, 2, 2), refit=True, plain=plain, ridge=1e-9, positions=1)
        (site,) = report.sites
        assert site.error_after >= site.error_before
        assert not site.refitted
        assert "the refit does not lower the error on images that it did not see" in str(report)
        assert same(before, model.state_dict())

    def test_what_cannot_be_refitted_is_reported(self):
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.std = ScaledStdConv2d(4, 4, 3, stride=2, padding=1)
                self.cond = CondConv2d(4, 4, 3, stride=2, padding=1, num_experts=2)
                self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, stride=2, padding=1))
                self.twice = nn.Conv2d(4, 4, 3, stride=2, padding=1)
                self.never = nn.Conv2d(4, 4, 3, stride=2, padding=1)
                self.pool = nn.MaxPool2d(2)

            def forward(self, x):
                x = self.cond(self.std(x), torch.ones(len(x), 2))
                return self.pool(self.twice(self.twice(self.normed(x))))

        torch.manual_seed(0)
        model = Model().eval()
        assert len(convert(model).converted) == 6
        before = copy.deepcopy(model.state_dict())
        reasons = {s.name: s.reason for s in heal(model, images(20, 4, size=64), refit=True).sites}
        assert reasons == {
            "std": "its weight is computed anew in every pass (ScaledStdConv2d)",
            "cond": "its weight is computed anew in every pass (CondConv2d)",
            "normed": "its weight is computed anew in every pass (ParametrizedConv2d)",
            "twice": "its weight is used 2 times in one pass",
            "never": "no image reached it",
        }
        assert same(before, model.state_dict())

    def test_memory_is_bounded_and_does_not_change_the_result(self, monkeypatch):
        x = images(60)
        portions = []
        original = least_squares.F.pad

        def healed():
            model = trained_alike(network(), x)
            convert(model)
            heal(model, x, refit=True, positions=7, seed=5)
            return model.state_dict()

        expected = healed()
        monkeypatch.setattr(least_squares, "_ENTRIES", 600)
        monkeypatch.setattr(least_squares.F, "pad", lambda *a, **k: portions.append(len(a[0])) or original(*a, **k))
        found = healed()
        assert 3 in portions  # 600 // (7 positions x 3 channels x 9)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)

    def test_half_precision_keeps_its_dtype(self):
        x = images(64)
        model = trained_alike(network(), x).bfloat16()
        convert(model)
        assert len(heal(model, x, refit=True).sites) == 2
        assert all(site.refitted for site in refit(model, x))
        assert all(v.dtype in (torch.bfloat16, torch.int64) for v in model.state_dict().values())

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_an_accelerator_gives_what_the_processor_gives(self):
        x = images(64)
        found = []
        for device in ("cpu", "cuda"):
            model = trained_alike(network(), x).to(device)
            convert(model)
            assert len(heal(model, x, refit=True).refitted) == 2
            found.append({k: v.cpu() for k, v in model.state_dict().items()})
        for name, value in found[0].items():
            torch.testing.assert_close(found[1][name], value, rtol=1e-2, atol=1e-3)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"refit": True, "ridge": 0.0}, "ridge: expected a number above 0, got 0.0"),
            ({"refit": True, "positions": 0}, "positions: expected at least 1"),
            ({"refit": "some"}, "refit: expected True, False or 'all', got 'some'"),
            ({"limit": 0}, "limit: expected at least 1"),
            ({"batchnorm": False, "training_distribution": True}, "training_distribution: it is for the statistics"),
            ({"plain": nn.Linear(2, 2), "refit": True}, "plain: expected the network that model was converted from"),
        ],
    )
    def test_wrong_arguments_are_said(self, options, text):
        model = network()
        convert(model)
        with pytest.raises(ValueError, match=text):
            heal(model, images(20), **options)

    def test_a_model_that_was_not_converted_has_nothing_to_refit(self):
        with pytest.raises(ValueError, match="no converted convolution; convert it first"):
            heal(network(), images(20), refit=True)
        model = network()
        convert(model)
        with pytest.raises(ValueError, match="the output of 0 is not finite"):
            refit(model, images(40) / 0)


class TestPlainCopy:
    @pytest.mark.parametrize("layout", ["preserve", "paper"])
    @pytest.mark.parametrize("kind", [*LAYERS, "max", "avg"])
    def test_gives_the_layer_back(self, kind, layout):
        makers = {**LAYERS, "max": lambda: nn.MaxPool2d(3, 2, 1), "avg": lambda: nn.AvgPool2d(2, ceil_mode=True)}
        plain = makers[kind]()
        worn = copy.deepcopy(plain)
        assert convert(worn, layout=layout).converted
        back = plain_copy(worn)
        assert type(back) is type(plain)
        assert repr(back) == repr(plain)
        x = torch.randn(2, 4, 11, 14)
        assert torch.equal(back(x), plain(x))
        assert not torch.equal(worn(x), plain(x))

    @pytest.mark.parametrize("layout", ["preserve", "paper"])
    @pytest.mark.parametrize(
        "name", ["test_resnet", "test_convnext", "test_byobnet", "test_efficientnet", "test_nfnet"]
    )
    def test_gives_the_network_back(self, name, layout):
        plain = timm.create_model(name).eval()
        worn = copy.deepcopy(plain)
        convert(worn, layout=layout)
        x = images(2, size=64)
        with torch.no_grad():
            assert torch.equal(plain_copy(worn)(x), plain(x))
