"""Downsampling by calling functions: found, converted where the source can be read, named where it cannot."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import avg_pool2d as average

import timm_asap
from timm_asap import asap_pool2d, convert, lowpass2d
from timm_asap.conversion import watch
from timm_asap.evaluation.aliasing import measure_aliasing


def image(*size, channels=3, seed=0):
    return torch.randn(2, channels, *(size or (32, 32)), generator=torch.Generator().manual_seed(seed))


def halve(x):
    """A helper of a module, outside of any."""
    return F.avg_pool2d(x, kernel_size=2)


class Calls(nn.Module):
    """Downsamples by every kind of call."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3) / 6)

    def forward(self, x):
        x = self.conv(x)
        x = F.max_pool2d(x, 2)
        x = torch.conv2d(x, self.weight, stride=2, padding=1) + self.__shortcut(x)
        return torch.cat([average(x, 2, stride=2), halve(x), F.interpolate(x, scale_factor=0.5, mode="bilinear")], 1)

    def __shortcut(self, x):
        return x[:, :, ::2, ::2]


class Inherits(Calls):
    """Calls its parent's forward, and is compiled with zero-argument super()."""

    def forward(self, x, scale: float = 0.5):
        return super().forward(x)[..., ::2, ::2] * scale


class OptionA(nn.Module):
    """The shortcut of CIFAR's ResNets: a lambda in a module."""

    def __init__(self):
        super().__init__()
        self.function = lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))

    def forward(self, x):
        return self.function(x)


class HeldFunction(nn.Module):
    """Holds the function itself, as DoRA's layers in PEFT do."""

    def __init__(self):
        super().__init__()
        self.conv_fn = F.conv2d
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x):
        return self.conv_fn(x, self.weight, stride=(2, 2), padding=1)


def expected_calls(model, x):
    x = model.conv(x)
    x = asap_pool2d(F.max_pool2d(x, 2, 1))
    low = lowpass2d(x)
    x = F.conv2d(low, model.weight, stride=2, padding=1) + low[:, :, ::2, ::2]
    low = lowpass2d(x)
    halves = F.avg_pool2d(low, 2), F.avg_pool2d(low, 2), F.interpolate(low, scale_factor=0.5, mode="bilinear")
    return torch.cat(halves, 1)


CALLS = {"Calls": (Calls, 6), "OptionA": (OptionA, 1), "HeldFunction": (HeldFunction, 1)}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_found_and_converted_with_an_example(name):
    build, count = CALLS[name]
    model, x = build(), image()
    plain = copy.deepcopy(model)
    assert len(watch(plain, x)) == count
    assert len(measure_aliasing(plain.eval(), [x])) == count
    report = convert(model, example=x)
    assert report.complete, report
    assert len(report.converted) == count
    assert model(x).shape == plain(x).shape
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(model, build)
    sites = measure_aliasing(model.eval(), [x])
    assert {site.status for site in sites} == {"converted"}
    assert max(site.above_nyquist for site in sites) < 1e-6
    assert {site.site for site in sites} == {site.site for site in measure_aliasing(plain, [x])}


def test_the_calls_compute_what_they_should():
    model, x = Calls(), image()
    report = convert(model)
    assert len(report.converted) == 6
    assert "F.max_pool2d in Calls, test_convert_calls.py:" in report.converted[0].layer
    torch.testing.assert_close(model(x), expected_calls(model, x))
    assert convert(model).converted == ()
    model = OptionA()
    assert convert(model, example=x).converted
    torch.testing.assert_close(model(x), F.pad(lowpass2d(x)[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))
    model = HeldFunction()
    assert convert(model, example=x).converted
    torch.testing.assert_close(model(x), F.conv2d(lowpass2d(x), model.weight, stride=2, padding=1))


def test_a_call_reached_by_super_is_named():
    model, x = Inherits(), image(64, 64)
    report = convert(model, example=x)
    assert not report.complete
    assert any("max-pool / 2 in Inherits" in site.layer for site in report.unhandled)
    before = {site.site for site in measure_aliasing(model.eval(), [x]) if site.status == "not handled"}
    assert len(before) >= 5


def test_undoing_gives_the_plain_calls_back():
    for build in (Calls, OptionA, HeldFunction):
        model, x = build(), image()
        plain, attributes = model(x), set(vars(model))
        convert(model, example=x)
        assert not torch.allclose(model(x), plain)
        timm_asap.conversion.strided.detach(model)
        assert type(model) is build
        assert set(vars(model)) == attributes
        assert torch.equal(model(x), plain)


@pytest.mark.parametrize("name", CALLS)
def test_copies_and_pickles(name):
    model, x = CALLS[name][0](), image()
    convert(model, example=x)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    if name != "OptionA":  # a lambda does not pickle, converted or not
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)


# PyTorch 2.7 warns of its own graphs.
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@pytest.mark.filterwarnings("ignore:.*does not reference an nn.Module:UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_compile_and_export(name):
    torch._dynamo.reset()
    model, x = CALLS[name][0]().eval(), image()
    convert(model, example=x)
    expected = model(x)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
    for strict in (False, True):
        program = torch.export.export(model, (x,), strict=strict, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        torch.testing.assert_close(program.module()(x[:1]), expected[:1])
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(x), expected)
    assert torch.equal(traced(image(40, 24)), model(image(40, 24)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_gives_the_same_numbers(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the dev extra installs it")
    model, x = Calls().eval(), image()
    convert(model)
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(result, model(x).detach().numpy(), atol=1e-4)


def test_gradients_pass():
    model, x = Calls(), image().requires_grad_()
    convert(model)
    model(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert x.grad.abs().sum() > 0


# What static reading cannot see, and what only looks like downsampling.


class Depends(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return F.interpolate(x, scale_factor=self.scale)


def test_without_an_example_the_report_says_what_it_cannot_see():
    report = convert(Depends(2.0))
    assert report.sites == ()
    assert not report.complete
    text = str(report)
    assert "not seen: F.interpolate in Depends, test_convert_calls.py:" in text
    assert "example=(an input)" in text
    assert convert(nn.Sequential(nn.Conv2d(3, 4, 3, 2))).unseen == ()
    assert convert(Depends(2.0), example=image()).complete
    report = convert(Depends(0.5), example=image())
    assert [site.layer for site in report.converted] == [f"F.interpolate in Depends, test_convert_calls.py:{LINE}"]


LINE = Depends.forward.__code__.co_firstlineno + 1


class Rotary(nn.Module):
    """Splits channels, not a grid; partitions windows; and gates over the whole map."""

    def forward(self, x):
        x = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        windows = x.unflatten(2, (8, 4)).unflatten(4, (8, 4)).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 3)
        x = x * F.adaptive_avg_pool2d(x, 1) + x[:, [0, 1, 2]] + windows.mean()
        return x.flip(1)[:, :, :30, 1:-1]


def test_what_loses_no_samples_is_no_downsampling():
    assert watch(Rotary(), image()) == []
    assert convert(Rotary(), example=image()).complete


REARRANGEMENTS = {
    "space to depth": lambda x: x.unflatten(3, (16, 2)).unflatten(2, (16, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3),
    "patches": lambda x: x.view(2, 3, 4, 8, 4, 8).permute(0, 2, 4, 1, 3, 5).reshape(2, 16, 192),
    "unfolded patches": lambda x: x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(2, 16, 192),
    "merging": lambda x: x.permute(0, 2, 3, 1).reshape(2, 16, 2, 16, 2, 3).permute(0, 1, 3, 4, 2, 5).flatten(3),
    "every other index": lambda x: x[:, :, torch.arange(0, 32, 2)],
    "index_select": lambda x: x.index_select(2, torch.arange(0, 32, 4)),
    "half of a rotation": lambda x: x[..., ::2],
    "frames": lambda x: x.unsqueeze(2).expand(-1, -1, 8, -1, -1)[:, :, ::4],
}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", REARRANGEMENTS)
def test_a_pass_shows_what_no_function_names(name):
    (operation,) = watch(Function(REARRANGEMENTS[name]), image())
    assert operation.lines[0][0] == __file__
    report = convert(Function(REARRANGEMENTS[name]), example=image())
    assert len(report.sites) == 1
    assert report.complete == (not report.unhandled)


def test_images_stay_stems_through_what_is_pointwise():
    class Net(nn.Module):
        def forward(self, x):
            x = F.pad((x - 0.5) / 0.2, (1, 1, 1, 1))
            return F.conv2d(x, torch.ones(4, 3, 8, 8), stride=8)

    (operation,) = watch(Net(), image())
    assert operation.on_image
    report = convert(Net(), example=image())
    assert report.left[0].reason == "a patchify stem (stride 8); stem=True converts it"
    assert convert(Net(), example=image(), stem=True).converted


def test_the_pass_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(inplace=True)).train()
    model[2].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    convert(model, example=image())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [layer.training for layer in model] == [True, True, False, True]
    assert not model[0]._forward_hooks


def test_what_only_noise_reaches_is_found_by_the_check():
    class Careful(nn.Module):
        def forward(self, x):
            return F.max_pool2d(x, 2) if x.abs().max() > 1 else x

    report = convert(Careful(), example=torch.zeros(1, 3, 8, 8))
    assert not report.complete
    assert "max-pool / 2 in Careful" in report.unhandled[0].layer


def test_an_error_in_the_checking_pass_undoes_everything():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.calls = nn.Conv2d(3, 4, 3, 2), 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("once only")
            return self.conv(x)

    model = Once()
    with pytest.raises(RuntimeError, match="once only"):
        convert(model, example=image())
    assert type(model.conv) is nn.Conv2d


# torchvision.


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_inception_v3_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=False).eval()
    x = image(96, 96)
    shape = model(x).shape
    report = convert(model, example=x)
    assert report.complete
    assert len([site for site in report.converted if "F.max_pool2d in Inception" in site.layer]) == 2
    assert model(x).shape == shape


def test_the_extra_pool_of_feature_pyramids():
    detection = pytest.importorskip("torchvision.models.detection")
    build = detection.backbone_utils.resnet_fpn_backbone
    model = build(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d).eval()
    report = convert(model, example=image(64, 64))
    assert report.complete, report
    assert any("F.max_pool2d in LastLevelMaxPool" in site.layer for site in report.converted)


# Compiled objects.


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_compiled_modules_are_named():
    plain, x = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(2)).eval(), image()
    for module, word in (
        (torch.jit.script(plain), "TorchScript"),
        (torch.jit.trace(plain, x), "TorchScript"),
        (torch.export.export(plain, (x,)).module(), "exported"),
    ):
        model = nn.Sequential(nn.Conv2d(3, 3, 1), module)
        report = convert(model)
        assert [site.name for site in report.unhandled] == ["1"]
        assert word in report.unhandled[0].reason
        report = convert(model, example=x)
        assert not report.complete
        assert [site.layer.split(" in ")[0] for site in report.unhandled] == ["convolution / 2", "max-pool / 2"]
        model.training = False  # the exported module refuses eval()
        statuses = {site.status for site in measure_aliasing(model, [x])}
        assert statuses == {"not handled"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_root_is_named():
    plain, x = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, 2)), nn.MaxPool2d(2)).eval(), image()
    script = torch.jit.script(plain)
    assert [site.reason for site in convert(script).sites] == ["compiled by TorchScript; convert before compiling"]
    report = convert(script, example=x)
    assert not report.complete
    assert [site.layer.split(" in ")[0] for site in report.unhandled] == ["convolution / 2", "max-pool / 2"]
    assert {site.status for site in measure_aliasing(script, [x])} == {"not handled"}


def test_a_factor_that_is_not_whole_is_said():
    """240 to 224 is cut as a stride of 2 would be."""
    cut = "(from 60x60 to 56x56: cut as for a stride of 2, the next whole factor)"
    x = torch.randn(1, 3, 60, 60)
    resize = Function(lambda x: F.interpolate(x, size=56, mode="bilinear"))
    report = convert(resize, example=x)
    assert [site.becomes for site in report.converted] == [f"low-pass, then the call {cut}"]
    assert cut in str(report)
    for layer in (nn.AdaptiveAvgPool2d(56), nn.FractionalMaxPool2d(2, output_size=56), nn.Upsample(size=56)):
        assert cut in str(convert(layer, example=x))
    for layer in (nn.AdaptiveAvgPool2d(30), nn.AdaptiveMaxPool2d((20, 60)), nn.MaxPool2d(3, 2), nn.Conv2d(3, 3, 3, 2)):
        assert "next whole factor" not in str(convert(layer, example=x))


def test_an_upsampling_layer_that_shrinks():
    """Of `nn.Upsample(size=...)` only a pass shows which way it goes."""
    x, model = image(), nn.Sequential(nn.Upsample(size=20), nn.Upsample(size=40))
    assert convert(model, dry_run=True).unseen == tuple(
        f"{name}, {layer}, which shrinks its map or not" for name, layer in model.named_children()
    )
    report = convert(model, example=x)
    assert report.complete
    assert [site.name for site in report.converted] == ["0"]
    torch.testing.assert_close(model[0](x), F.interpolate(lowpass2d(x, 2), size=20))
    assert [site.reason for site in convert(model).left] == ["already converted (preserve, asap, circular)"]
    other = nn.Sequential(nn.Upsample(size=20), nn.Upsample(size=40))
    convert(other, like=report)
    assert torch.equal(other(x), model(x))


def test_a_resize_of_the_image_is_called_one():
    report = convert(Function(lambda x: F.interpolate(x, scale_factor=0.25)), example=image())
    assert [site.reason for site in report.left] == ["resizes the image by 4; stem=True converts it"]
    report = convert(Function(lambda x: F.interpolate(x, scale_factor=0.5)), example=image(), stem=False)
    assert [site.reason for site in report.left] == ["resizes the image, and stem=False"]


def test_a_compiled_model_is_converted_inside():
    torch._dynamo.reset()
    plain, x = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(2)), image()
    compiled = torch.compile(plain, backend="eager")
    before = compiled(x)
    report = convert(compiled, example=x)
    assert report.complete
    assert len(report.converted) == 2
    assert not torch.allclose(compiled(x), before)
    torch.testing.assert_close(compiled(x), plain(x))


def test_a_traced_graph_names_its_calls_and_converts_its_layers():
    traced = torch.fx.symbolic_trace(Calls())
    report = convert(traced, example=image())
    assert len(report.unhandled) == 6
    assert all("before tracing" in site.reason for site in report.unhandled)


# The property: whatever a network is put together of, the report has all that a pass shows.

PIECES = [
    lambda: nn.Conv2d(4, 4, 3, 2, 1),
    lambda: nn.Conv2d(4, 4, 1, 2),
    lambda: nn.MaxPool2d(2),
    lambda: nn.AvgPool2d(3, 2, 1),
    lambda: nn.AdaptiveAvgPool2d(16),
    lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 1)),
    lambda: Function(lambda x: F.max_pool2d(x, 3, 2, 1)),
    lambda: Function(lambda x: x[:, :, ::2, ::2]),
    lambda: Function(halve),
    lambda: Function(lambda x: x[:, :, torch.arange(0, x.shape[2], 2)]),
    lambda: Function(torch.relu),
    lambda: nn.Upsample(scale_factor=2),
    lambda: nn.ConvTranspose2d(4, 4, 2, 2),
    lambda: Depends(0.5),
    lambda: Depends(2.0),
    lambda: nn.Conv2d(4, 4, 3, padding=1),
    lambda: nn.BatchNorm2d(4),
]


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(PIECES), (4,), generator=generator).tolist()
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *(PIECES[i]() for i in chosen)).eval()
    x = image(128, 96, seed=seed)
    plain = model(x)
    operations = [operation for operation in watch(model, x) if not operation.upsamples]
    report = convert(model, example=x)
    assert model(x).shape == plain.shape
    assert len(report.sites) >= len(operations)
    assert {operation.module for operation in operations} <= {site.name for site in report.sites}
    indexing = [operation for operation in operations if operation.kind == "indexing"]
    assert len(report.unhandled) == len(indexing)
    assert report.complete == (not indexing)
    aliasing = [site for site in measure_aliasing(model, [x]) if site.status != "converted"]
    assert len(aliasing) == len(indexing)
    assert all(site.above_nyquist < 1e-6 for site in measure_aliasing(model, [x]) if site.status == "converted")
    statuses = {site.status for site in report.sites}
    assert statuses <= {"converted", "not handled"}
