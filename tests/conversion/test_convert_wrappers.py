"""What other libraries do to a converted network, or did to it before: both orders give the same, or it is refused."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from timm_asap import convert, lowpass2d
from timm_asap.conversion.strided import AsapLayer, detach
from timm_asap.evaluation.aliasing import measure_aliasing


def image(*size, channels=3, seed=0):
    return torch.randn(2, channels, *(size or (32, 32)), generator=torch.Generator().manual_seed(seed))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1, stride=2), nn.MaxPool2d(2)
    ).eval()


def sites(model):
    return sum(isinstance(layer, AsapLayer) for layer in model.modules())


# accelerate puts a `forward` of its own on every layer.


def hooked(model):
    from accelerate.hooks import ModelHook, add_hook_to_module

    for layer in model:
        add_hook_to_module(layer, ModelHook())
    return model


def offloaded(model):
    from accelerate import cpu_offload

    return cpu_offload(model, execution_device="cpu")


def dispatched(model):
    from accelerate import dispatch_model

    return dispatch_model(
        model, {name: "cpu" for name, _ in model.named_children()}, main_device="cpu", force_hooks=True
    )


@pytest.mark.parametrize("wrap", [hooked, offloaded, dispatched])
def test_accelerates_hooks(wrap):
    from accelerate.hooks import remove_hook_from_module

    x = image()
    plain = network()(x)
    expected = network()
    convert(expected)
    expected = expected(x)
    for order in ("wrap", "convert"):
        model = network()
        if order == "wrap":
            model = wrap(model)
            assert len(convert(model, example=x if wrap is hooked else None).converted) == 3
        else:
            convert(model)
            model = wrap(model)
        torch.testing.assert_close(model(x), expected)
        if wrap is offloaded:
            continue  # its weights are on the meta device
        torch.testing.assert_close(copy.deepcopy(model)(x), expected)
        remove_hook_from_module(model, recurse=True)
        torch.testing.assert_close(model(x), expected)
        for layer in model:
            if isinstance(layer, AsapLayer):
                detach(layer)
        torch.testing.assert_close(model(x), plain)
        assert not any("forward" in vars(layer) and isinstance(layer, AsapLayer) for layer in model)


def test_detaching_under_accelerates_hooks():
    x = image()
    plain = network()(x)
    model = hooked(network())
    convert(model)
    for layer in model:
        if isinstance(layer, AsapLayer):
            detach(layer)
    torch.testing.assert_close(model(x), plain)


# Adapters.


def test_a_converted_layers_class_builds_alias_free_layers():
    x = image()
    model = timm.create_model("resnet18_asap")
    conv = model.layer2[0].conv1
    torch.manual_seed(0)
    built = type(conv)(3, 8, 3, stride=2, padding=1)
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    torch.testing.assert_close(built(x), plain(lowpass2d(x)))
    assert type(built) is type(conv)
    assert type(type(conv)(3, 8, 3)) is nn.Conv2d  # which does not stride
    assert type(model.conv1)(3, 8, 3)(x).shape == (2, 8, 30, 30)
    pointwise = type(model.layer2[0].downsample[0])(3, 8, 3, stride=2)  # of a 1x1 convolution's class
    assert pointwise(x).shape == (2, 8, 15, 15)
    assert type(type(model.maxpool)(2)(x)) is torch.Tensor
    paper = timm.create_model("resnet18_asap", asap_layout="paper").layer2[0].conv1
    with pytest.raises(TypeError, match="layout 'paper' runs at stride 1"):
        type(paper)(3, 8, 3)


class LowRank(nn.Module):
    """As PEFT's LoRA: branches of the layer's own class, with its stride on the first."""

    def __init__(self, base):
        super().__init__()
        cls = type(base)
        self.base = base
        self.down = cls(base.in_channels, 2, base.kernel_size, base.stride, base.padding, bias=False)
        self.up = cls(2, base.out_channels, (1, 1), (1, 1), bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))

    def merge(self):
        self.base.weight.data += torch.einsum("or,rikl->oikl", self.up.weight[:, :, 0, 0], self.down.weight)
        return self.base


class Delta(nn.Module):
    """As PEFT's LoHa and LoKr: a second convolution, called as a function with a weight made of factors."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.delta = nn.Parameter(torch.randn_like(base.weight) / 10)

    def forward(self, x):
        base = self.base
        return base(x) + F.conv2d(x, self.delta, stride=base.stride, padding=base.padding, groups=base.groups)

    def merge(self):
        self.base.weight.data += self.delta
        return self.base


@pytest.mark.parametrize("adapter", [LowRank, Delta])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("order", ["wrap", "convert"])
@torch.no_grad()
def test_merging_an_adapter_changes_nothing(adapter, kernel, order):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, kernel, stride=2, padding=kernel // 2)), image()
    if order == "convert":
        convert(model)
    model[0] = adapter(model[0])
    convert(model, example=x)  # what the adapter brought with it
    before = model(x)
    assert max(site.above_nyquist for site in measure_aliasing(model.eval(), [x])) < 1e-6
    merged = nn.Sequential(model[0].merge())
    torch.testing.assert_close(merged(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["LoraConfig", "LoraConfig dora", "LoHaConfig", "LoKrConfig"])
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_peft(kind):
    peft = pytest.importorskip("peft", reason="optional")
    name, _, dora = kind.partition(" ")
    more = {"init_lora_weights": False, "use_dora": bool(dora)} if name == "LoraConfig" else {"init_weights": False}
    config = getattr(peft, name)(target_modules=["0", "2"], r=2, **more)
    x = image()
    model = network()
    convert(model)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(model, config).eval()
    convert(adapted, example=x)
    before = adapted(x)
    assert max(site.above_nyquist for site in measure_aliasing(adapted, [x])) < 1e-6
    torch.testing.assert_close(adapted.merge_and_unload()(x), before, rtol=1e-3, atol=1e-4)
    plain = network()
    torch.manual_seed(1)
    other = peft.get_peft_model(plain, config).eval()
    convert(other, example=x)
    torch.testing.assert_close(other(x), before, rtol=1e-4, atol=1e-5)


# Tracers.


@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "densenet121", "mobilenetv3_small_050", "test_resnet"])
def test_fx_traces_what_it_traces_of_the_plain_network(name):
    twin, plain = timm.create_model(f"{name}_asap").eval(), timm.create_model(name).eval()
    x = image(64, 64)
    traced, expected = torch.fx.symbolic_trace(twin), torch.fx.symbolic_trace(plain)
    assert [str(node.target) for node in traced.graph.nodes if node.op == "call_module"] == [
        str(node.target) for node in expected.graph.nodes if node.op == "call_module"
    ]
    torch.testing.assert_close(traced(x), twin(x))
    assert sites(traced) == sites(twin)
    copied = copy.deepcopy(traced)
    torch.testing.assert_close(copied(image(96, 64)), twin(image(96, 64)))


def test_torchvisions_feature_extractor():
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="timm needs torchvision")
    twin, plain, x = timm.create_model("resnet18_asap").eval(), timm.create_model("resnet18").eval(), image(64, 64)
    names = extraction.get_graph_node_names(twin)
    assert names == extraction.get_graph_node_names(plain)
    features = extraction.create_feature_extractor(twin, ["layer2", "layer4.1.act2"])(x)
    own = timm.create_model("resnet18_asap", features_only=True).eval()
    own.load_state_dict(twin.state_dict(), strict=False)
    torch.testing.assert_close(features["layer2"], own(x)[2])
    torch.testing.assert_close(features["layer4.1.act2"], own(x)[4])


def test_fusing_by_fx():
    from torch.fx.experimental.optimization import fuse

    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.MaxPool2d(2)).eval(), image()
    convert(model)
    torch.testing.assert_close(fuse(model)(x), model(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "error::torch.jit.TracerWarning")
def test_torchscript_traces_and_refuses_scripts():
    model, x = network(), image()
    convert(model)
    traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(traced(image(40, 48)), model(image(40, 48)), rtol=1e-4, atol=1e-5)
    with pytest.raises(
        TypeError, match=r"TorchScript cannot compile AsapConv2d, an alias-free layer; use torch\.export"
    ):
        torch.jit.script(model)


# Quantization.


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_eager_mode_quantization_is_refused_by_name():
    quantization = pytest.importorskip("torch.ao.quantization")
    if not hasattr(quantization, "prepare"):
        pytest.skip("this PyTorch has no eager-mode quantization")
    model = network()
    convert(model)
    model.qconfig = quantization.get_default_qconfig("x86")
    with pytest.raises(TypeError, match="eager-mode quantization swaps layers by their exact class"):
        quantization.prepare(model)
    trained = network().train()
    trained.qconfig = quantization.get_default_qat_qconfig("x86")
    quantization.prepare_qat(trained, inplace=True)
    report = convert(trained)
    assert {site.name for site in report.unhandled} == {"0", "2"}
    assert all("prepared for quantization" in site.reason for site in report.unhandled)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_int8_networks_are_filtered_between_dequantizing_and_quantizing():
    quantization = pytest.importorskip("torch.ao.quantization")
    if not hasattr(quantization, "prepare"):
        pytest.skip("this PyTorch has no eager-mode quantization")
    x, expected = image(), network()
    convert(expected)
    model = nn.Sequential(quantization.QuantStub(), *network(), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig("x86")
    model = quantization.prepare(model)
    model(x)
    model = quantization.convert(model)
    plain = model(x)
    report = convert(model, example=x)
    assert report.complete, report
    assert {site.name for site in report.converted} == {"1", "3", "4"}
    error = (model(x) - expected(x)).abs().max()
    assert error < 0.2 * (plain - expected(x)).abs().max()
    assert torch.equal(copy.deepcopy(model)(x), model(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_fusing_first_works():
    quantization = pytest.importorskip("torch.ao.quantization")
    if not hasattr(quantization, "fuse_modules"):
        pytest.skip("this PyTorch has no eager-mode fusion")
    x = image()
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    expected = copy.deepcopy(model)
    convert(expected)
    fused = quantization.fuse_modules(model, ["0", "1", "2"])
    assert len(convert(fused, example=x).converted) == 1
    torch.testing.assert_close(fused(x), expected(x))


@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_fusing_after_conversion(layout, kernel):
    quantization = pytest.importorskip("torch.ao.quantization")
    if not hasattr(quantization, "fuse_modules"):
        pytest.skip("this PyTorch has no eager-mode fusion")
    x = image()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, kernel, 2, kernel // 2), nn.BatchNorm2d(4), nn.ReLU())
    model(x)
    convert(model, layout=layout)
    with pytest.raises(TypeError, match=r"AsapConv2d: fusion for training .*; call eval\(\)"):
        quantization.fuse_modules_qat(copy.deepcopy(model), ["0", "1", "2"])
    expected = model.eval()(x)
    for names in (["0", "1", "2"], ["0", "1"]):
        fused = quantization.fuse_modules(model, names)
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())
        assert sites(fused) == 1
        torch.testing.assert_close(fused(x), expected)
    pair = nn.Sequential(model[0], model[2])
    torch.testing.assert_close(quantization.fuse_modules(pair, ["0", "1"])(x), pair(x))
    up = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.BatchNorm2d(4)).eval()
    convert(up, upsampling=True)
    with pytest.raises(TypeError, match=r"AsapConvTranspose2d cannot be fused: .* before convert\(upsampling=True\)"):
        quantization.fuse_modules(up, ["0", "1"])


# What wraps a whole network.


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, backend="eager")


def averaged(model):
    from torch.optim.swa_utils import AveragedModel

    return AveragedModel(model)


def ema_of_timm(model):
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model)


def checkpointed(model):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return checkpoint_wrapper(model)


def distributed(model):
    return nn.parallel.DistributedDataParallel(model)


def sharded(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, averaged, ema_of_timm, checkpointed, distributed, sharded])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_wrapping_first_or_converting_first_gives_the_same(wrap, process_group):
    x = image()
    outputs = []
    for order in ("wrap", "convert"):
        model = network()
        if order == "wrap":
            model = wrap(model)
            report = convert(model, example=x)
            assert report.complete
            assert len(report.converted) == 3
        else:
            convert(model)
            model = wrap(model)
            assert not convert(model).converted
        outputs.append(model(x))
        assert {site.status for site in measure_aliasing(model.eval(), [x])} == {"converted"}
        for layer in model.modules():
            if isinstance(layer, AsapLayer):
                detach(layer)
        assert sites(model) == 0
    torch.testing.assert_close(*outputs)


def test_functional_calls():
    from torch.func import functional_call

    model, x = network(), image()
    convert(model)
    torch.testing.assert_close(functional_call(model, dict(model.named_parameters()), (x,)), model(x))


# Sizes that the plain network refuses.

SMALL = {
    "max": lambda: nn.MaxPool2d(3, 2),
    "max ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "max dilated": lambda: nn.MaxPool2d(2, 2, dilation=3),
    "average": lambda: nn.AvgPool2d(3, 2),
    "convolution": lambda: nn.Conv2d(3, 4, 3, stride=2),
    "one axis": lambda: nn.MaxPool2d((3, 1), (2, 1)),
    "1-D": lambda: nn.MaxPool1d(3, 2),
    "power": lambda: nn.LPPool2d(2, 3, stride=2),
}


@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize("name", SMALL)
def test_what_the_plain_layer_refuses_is_refused(name, layout):
    plain, layer = SMALL[name](), SMALL[name]()
    convert(layer, layout=layout, stem=True)
    assert sites(layer)
    for size in range(1, 8):
        for grad in (False, True):
            x = image(size) if name == "1-D" else image(size, 5)
            x.requires_grad_(grad)
            try:
                expected = plain(x).shape
            except RuntimeError:
                with pytest.raises(RuntimeError):
                    layer(x)
            else:
                assert layer(x).shape == expected
