"""Healing: BatchNorm statistics against direct sums, the refit against the gradient of what it minimises."""

import copy
import json

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d, CondConv2d, ScaledStdConv2d, freeze_batch_norm_2d
from timm.layers.conv2d_same import Conv2dSame
from tiny_run import CLASSES, TEST_IMAGES, tiny_flags, write_images
from tiny_run import main as train_main
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import timm_asap
from benchmarks.heal import RESULTS, STAGES, table
from timm_asap import convert, heal
from timm_asap.cli import main
from timm_asap.data import build_loader, load_dataset
from timm_asap.healing import patches, plain_copy

BUFFERS = ("running_mean", "running_var")


def images(count, channels=3, size=16, seed=0):
    """Smooth noise: like photographs, most of it at low frequencies."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, size, size, generator=generator)
    return F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="circular"), 3, stride=1) * 2 + 0.3 * noise


def network(seed=0):
    """Two convolutions that stride, each before a BatchNorm."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        BatchNormAct2d(8),
        nn.Conv2d(8, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
        nn.BatchNorm1d(5),
    ).eval()


def trained_alike(model, x):
    """Give BatchNorm layers the statistics that training on these images would have left."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None
            layer.reset_running_stats()
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def buffers(model):
    return {k: v.clone() for k, v in model.state_dict().items() if k.rpartition(".")[2] in BUFFERS}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class TestBatchNorm:
    def test_is_exact_over_batches_of_any_size(self):
        x = images(103)
        model = network()
        convert(model)
        with torch.no_grad():
            first = model[0](x).double()
        report = heal(model, [x[:40], x[40:73], x[73:]])
        assert report.images == 103
        assert report.batchnorm == ("1", "3", "6")
        mean, var = first.mean(dim=(0, 2, 3)), first.var(dim=(0, 2, 3), correction=1)
        torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model[1].running_var.double(), var, rtol=1e-5, atol=1e-6)

    def test_one_batch_is_what_pytorch_accumulates_in_training(self):
        x = images(64)
        model = network()
        convert(model)
        expected = trained_alike(copy.deepcopy(model), x)
        heal(model, x)
        for name, value in buffers(expected).items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)

    def test_leaves_everything_else_as_found(self):
        model = network()
        convert(model)
        model.train()
        model[3].eval()
        model[1].momentum = 0.37
        model[3].num_batches_tracked += 5
        before = copy.deepcopy(model.state_dict())
        heal(model, images(40))
        assert [m.training for m in model] == [True, True, True, False, True, True, True]
        assert (model[1].momentum, int(model[3].num_batches_tracked)) == (0.37, 5)
        assert all(m.track_running_stats for m in (model[1], model[3], model[6]))
        after = model.state_dict()
        changed = {k for k in before if not torch.equal(before[k], after[k])}
        assert changed == {f"{i}.{b}" for i in (1, 3, 6) for b in BUFFERS}

    def test_writes_nothing_when_the_images_fail(self):
        model = network().train()
        convert(model)
        before = copy.deepcopy(model.state_dict())

        def failing():
            yield images(40)
            yield images(40)
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            heal(model, failing())
        with pytest.raises(ValueError, match=r"input of 1 is not finite: check the images"):
            heal(model, images(40) / 0)
        assert same(before, model.state_dict())
        assert all(m.training for m in model)
        assert model[1].track_running_stats

    def test_layers_without_statistics_of_their_own_are_left(self):
        model = network()
        model[3] = nn.BatchNorm2d(6, track_running_stats=False)
        model.unused = nn.BatchNorm2d(4)
        model.forward = lambda x: nn.Sequential(*list(model)[:7])(x)
        frozen = freeze_batch_norm_2d(network())
        convert(model)
        convert(frozen)
        report = heal(model, images(40))
        assert report.batchnorm == ("1", "6")
        assert report.batchnorm_left == ("unused",)
        assert "unused: left: no image reached it" in str(report)
        assert torch.equal(model.unused.running_mean, torch.zeros(4))
        before = copy.deepcopy(frozen.state_dict())
        heal(frozen, images(40))
        changed = {k for k, v in frozen.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {"6.running_mean", "6.running_var"}

    def test_a_network_without_it_is_told(self):
        model = timm.create_model("test_convnext_asap").eval()
        before = copy.deepcopy(model.state_dict())
        with pytest.warns(UserWarning, match="the network has no BatchNorm.*try refit=True"):
            report = heal(model, images(8, size=64))
        assert report.note == "the network has no BatchNorm: there are no statistics to re-estimate"
        assert same(before, model.state_dict())


class TestImages:
    def statistics(self, source, **options):
        model = network()
        convert(model)
        return heal(model, source, **options), buffers(model)

    def test_every_form_gives_the_same(self):
        x = images(96)
        report, expected = self.statistics(x, batch_size=48)
        loader = DataLoader(TensorDataset(x, torch.arange(96)), batch_size=48)
        for source in (list(x.split(48)), iter(x.split(48)), loader, [(part, None) for part in x.split(48)]):
            again, found = self.statistics(source)
            assert again == report
            assert same(found, expected)

    def test_batches_of_a_few_images_are_merged(self):
        x = images(70)
        _, expected = self.statistics([x[:32], x[32:]])
        _, found = self.statistics(list(x.split(1)))
        assert same(found, expected)

    @pytest.mark.parametrize("source", [lambda x: x, lambda x: x.split(20)])
    def test_limit_takes_the_first(self, source):
        x = images(90)
        report, found = self.statistics(source(x), limit=50, batch_size=50)
        assert report.images == 50
        _, expected = self.statistics(source(x[:50]), batch_size=50)
        assert same(found, expected)

    def test_limit_asks_for_no_batch_beyond_it(self):
        def endless():
            while True:
                yield images(32)

        assert self.statistics(endless(), limit=64)[0].images == 64

    @pytest.mark.parametrize(
        ("source", "error", "text"),
        [
            (3, TypeError, "expected a tensor, batches or a data loader, got int"),
            ({"a": 1}, TypeError, "got dict"),
            (["a"], TypeError, r"expected batches of tensors, or \(images, labels\), got str"),
            (images(4)[0], ValueError, r"expected batches of shape \(B, C, H, W\), got \(3, 16, 16\)"),
            (torch.zeros(4, 3, 16, 16, dtype=torch.uint8), TypeError, "normalised for the model, got torch.uint8"),
            ([], ValueError, "expected at least 2, got 0"),
            (images(1), ValueError, "expected at least 2, got 1"),
            ([images(4), images(4, size=20)], ValueError, "these differ in size"),
        ],
    )
    def test_what_is_no_image_is_said(self, source, error, text):
        with pytest.raises(error, match=text):
            self.statistics(source)


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
        report = heal(layer, x, refit=True, plain=plain, ridge=1e-13, positions=999)
        after = gradient(layer, x[fitted], target[fitted])
        assert after.norm() < 1e-6 * before.norm()
        assert list(layer.state_dict()) == keys
        # the reported error is the one on the images that the fit did not see
        with torch.no_grad():
            error = (layer(x) - target)[~fitted].norm() / target[~fitted].norm()
        (site,) = report.refitted
        assert site.error_after == pytest.approx(error.item(), rel=1e-6)
        assert site.error_after < site.error_before

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
        heal(layer, x, refit=True, plain=plain, ridge=0.5, positions=999)
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
        """The second site's solution is that for the input it gets from the refitted first one."""
        x = images(60).double()
        plain = trained_alike(network().double(), x)
        model = copy.deepcopy(plain)
        for layer in (model[0], model[2]):
            layer.weight.data += 0.2 * torch.randn_like(layer.weight)
        convert(model)
        unfitted = copy.deepcopy(model[2])
        report = heal(model, x, refit=True, plain=plain, ridge=1e-13, positions=999, batch_size=60)
        assert [site.name for site in report.refitted] == ["0", "2"]
        with torch.no_grad():
            target = plain[:3](x)
            seen = model[:2](x)
        fitted = torch.arange(60) % 5 != 0
        # Statistics that PyTorch normalised the batch by are biased, those that it keeps are not: by 1 in 3840.
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
        assert len(report.refitted) == 2

    @pytest.mark.parametrize("layout", ["preserve", "paper"])
    def test_convnext_has_this_repair_alone(self, layout):
        torch.manual_seed(0)
        model = timm.create_model("test_convnext").eval()
        for layer in model.modules():  # timm starts the blocks at 1e-6, which training raises
            if getattr(layer, "gamma", None) is not None:
                nn.init.constant_(layer.gamma, 0.5)
        convert(model, layout=layout, window="hamming")
        before = copy.deepcopy(model.state_dict())
        report = heal(model, images(160, size=64), refit=True)
        assert [site.name for site in report.sites] == [f"stages.{i}.downsample.1" for i in (1, 2, 3)]
        assert report.refitted
        assert all(site.error_after < site.error_before for site in report.refitted)
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {f"{site.name}.{p}" for site in report.refitted for p in ("weight", "bias")}
        assert report.note.startswith("the network has no BatchNorm")

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
        original = patches.F.pad

        def healed():
            model = trained_alike(network(), x)
            convert(model)
            heal(model, x, refit=True, positions=7, seed=5)
            return model.state_dict()

        expected = healed()
        monkeypatch.setattr(patches, "_ENTRIES", 600)
        monkeypatch.setattr(patches.F, "pad", lambda *a, **k: portions.append(len(a[0])) or original(*a, **k))
        found = healed()
        assert 3 in portions  # 600 // (7 positions x 3 channels x 9)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)

    def test_half_precision_keeps_its_dtype(self):
        x = images(64)
        model = trained_alike(network(), x).bfloat16()
        convert(model)
        report = heal(model, x, refit=True)
        assert len(report.refitted) == 2
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
            ({"limit": 0}, "limit: expected at least 1"),
            ({"plain": network()}, "plain: only refit=True"),
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
            heal(model, images(40) / 0, refit=True)


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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained plain network, and its data."""
    folder = tmp_path_factory.mktemp("heal")
    data_dir = write_images(folder / "idx")
    assert train_main(tiny_flags(data_dir, folder / "plain", epochs=6)) == 0
    return folder / "plain", data_dir


class TestCommand:
    def flags(self, run, output, *more):
        return ["heal", str(run[0]), "--dataset", "idx", "--data-dir", str(run[1]), "--output", str(output), *more]

    def test_writes_a_twin_that_loads_and_prints_what_it_brought(self, run, tmp_path, capsys):
        output = tmp_path / "healed"
        capsys.readouterr()
        assert main(self.flags(run, output, "--refit", "--layout", "paper", "--limit", "50")) == 0
        out = capsys.readouterr().out
        assert "healed with 50 images" in out
        assert "4 of 4 converted convolutions" in out or "left: the refit does not" in out
        record = json.loads((output / "heal.json").read_text())
        shown = ", ".join(f"{k} {v:.2f} %" for k, v in record["accuracy"].items())
        assert f"accuracy on test ({TEST_IMAGES} images): {shown}" in out
        assert list(record["accuracy"]) == ["plain", "before", "healed"]

        config = json.loads((output / "config.json").read_text())
        assert config["architecture"] == "test_resnet_asap"
        assert config["model_args"]["asap_layout"] == "paper"
        assert "num_classes" not in config["model_args"]
        load_line = out.splitlines()[-1]
        space = {}
        exec(load_line, space)
        model = space["model"].eval()
        assert model.layer2[0].conv1.asap.layout == "paper"
        x = images(5, 1, size=32)
        with torch.no_grad():
            again = timm.create_model("test_resnet_asap", num_classes=CLASSES, in_chans=1, asap_layout="paper").eval()
            again.load_state_dict(load_file(output / "model.safetensors"))
            assert torch.equal(model(x), again(x))
        assert load_file(run[0] / "model.safetensors").keys() == again.state_dict().keys()

    def test_saves_what_healing_gives_and_prints_its_accuracy(self, run, tmp_path, capsys):
        assert main(self.flags(run, tmp_path / "healed")) == 0
        model = timm.create_model(f"local-dir:{tmp_path / 'healed'}", pretrained=True).eval()
        dataset = load_dataset("idx", run[1])
        expected = timm.create_model("test_resnet_asap", num_classes=CLASSES, in_chans=1).eval()
        expected.load_state_dict(load_file(run[0] / "model.safetensors"))
        heal(expected, build_loader(dataset.train, dataset, 64, training=False))
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            test = build_loader(dataset.test, dataset, 7, training=False)
            accuracy = 100 * torch.cat([(model(x).argmax(1) == y).float() for x, y in test]).mean().item()
        assert f"healed {accuracy:.2f} %" in capsys.readouterr().out

    def test_takes_a_twin_with_its_own_options(self, run, tmp_path, capsys):
        assert main(self.flags(run, tmp_path / "one", "--window", "flc")) == 0
        assert main(self.flags((tmp_path / "one", run[1]), tmp_path / "two")) == 0
        config = json.loads((tmp_path / "two" / "config.json").read_text())
        assert config["model_args"]["asap_window"] == "flc"
        record = json.loads((tmp_path / "two" / "heal.json").read_text())
        assert list(record["accuracy"]) == ["before", "healed"]
        capsys.readouterr()
        assert main(self.flags((tmp_path / "one", run[1]), tmp_path / "three", "--window", "asap")) == 2
        assert "alias-free already, with options of its own: leave out --window" in capsys.readouterr().err

    def test_replaces_only_what_it_wrote(self, run, tmp_path, capsys):
        output = tmp_path / "healed"
        assert main(self.flags(run, output)) == 0
        capsys.readouterr()
        assert main(self.flags(run, output)) == 2
        assert "already holds a healed model: --overwrite replaces it" in capsys.readouterr().err
        assert main(self.flags(run, output, "--overwrite")) == 0
        capsys.readouterr()
        assert main(self.flags(run, run[0], "--overwrite")) == 2
        assert "holds other files: choose another folder" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["resnet1"], "unknown model 'resnet1': closest matches"),
            (["resnet18.a9_in1k"], "unknown tag of resnet18 'a9_in1k'"),
            (["resnet20_lowres"], "resnet20_lowres has no pretrained weights: train it first"),
            (["no/folder"], "model local-dir:no/folder cannot be loaded"),
            (["test_resnet", "--limit", "1"], "--limit: expected 2 or more, got 1"),
            (["test_resnet", "--stem", "yes"], "--stem: expected auto, true or false, got 'yes'"),
            (["test_resnet", "--layout", "papr"], "unknown layout 'papr'"),
            (["test_resnet", "--device", "gpu"], "--device gpu cannot be used"),
            (["test_resnet", "--ridge", "0"], "--ridge: expected a number above 0, got 0"),
        ],
    )
    def test_mistakes_are_one_line_and_exit_code_2(self, words, text, run, tmp_path, capsys):
        capsys.readouterr()
        line = ["heal", *words, "--dataset", "idx", "--data-dir", str(run[1]), "--output", str(tmp_path / "out")]
        assert main(line) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert text in err
        assert not (tmp_path / "out").exists()

    def test_other_classes_are_refused(self, run, tmp_path, capsys):
        capsys.readouterr()
        assert main(["heal", str(run[0]), "--dataset", "digits", "--output", str(tmp_path / "out")]) == 2
        assert f"tells {CLASSES} classes apart, and digits has 10" in capsys.readouterr().err


def test_the_committed_table_is_made_of_the_committed_record():
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert RESULTS.with_suffix(".md").read_text(encoding="utf-8") == table(record)
    for values in record["layouts"].values():
        assert set(values["accuracy"]) == set(STAGES)
