"""Whole twins and converted networks under torch.compile, torch.export, ONNX and torch.jit.trace."""

import copy
import itertools
import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn

from timm_asap import AsapPool2d, LowPass2d, convert
from timm_asap.ops.resample import matrix_cache, resample
from timm_asap.ops.spectral import lowpass_matrix, pool_matrix
from timm_asap.ops.traced import traced_matrix

DYNAMIC = torch.export.Dim.DYNAMIC
#: Free batch; free batch, height and width.
FREE = {"batch": {0: DYNAMIC}, "size": {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}}
# PyTorch 2.11 guards the parity of what its average pool gets, in plain networks too: even here, as in the example.
SHAPES = {"batch": [(5, 3, 96, 64)], "size": [(5, 3, 96, 64), (2, 3, 63, 127), (1, 3, 64, 95)]}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("test_convnext", "test_nfnet", "test_byobnet")]
FAMILIES = ["test_resnet", "test_efficientnet", *SLOW]


def assert_close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    matrix_cache.clear()


@pytest.fixture(scope="module")
def pieces():
    """Every kind of layer that the default layout makes, in one small network."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 16, 1, 2),
        nn.AvgPool2d(2, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    convert(model)
    return model.eval()


@pytest.mark.parametrize("boundary", ["circular", "reflect", "zero"])
def test_traced_matrices_are_the_constants(boundary):
    device = torch.device("cpu")
    for n, stride, window in itertools.product([*range(2, 24), 56, 97], (2, 3, 4, 7), ("asap", "hamming", "flc")):
        for kind, constant in (("lowpass", lowpass_matrix), ("pool", pool_matrix)):
            traced = traced_matrix(kind, n, stride, window, boundary, torch.float64, device)
            torch.testing.assert_close(traced, constant(n, stride, window, boundary), atol=1e-13, rtol=0)
    single = traced_matrix("pool", torch.tensor(1), 2, "asap", boundary, torch.float64, device)
    torch.testing.assert_close(single, torch.ones(1, 1, dtype=torch.float64))  # as torch.jit.trace gives a size


@pytest.mark.parametrize("layer", [AsapPool2d(), LowPass2d(boundary="zero")])
def test_one_layer_compiled_once_for_every_size(layer):
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in range(2, 14):
        x = torch.randn(2, 3, 40 + n, 3 * n + 50)
        torch.testing.assert_close(compiled(x), layer(x), atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def train_step(model, x):
    model.zero_grad()
    model(x).square().mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


# PyTorch 2.11 scripts parts of itself, and calls that deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_layer_under_inductor(pieces, dynamic):
    model = copy.deepcopy(pieces)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for shape in [(2, 3, 64, 48), (3, 3, 64, 96)] if dynamic else [(2, 3, 64, 48)]:
        x = torch.randn(shape)
        with torch.no_grad():
            assert_close(compiled(x), pieces(x))
        for a, b in zip(train_step(compiled, x), train_step(pieces, x), strict=True):
            assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("eager_first", [True, False])
@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize(
    "name", ["resnet20_lowres", "test_convnext", "test_efficientnet", "test_nfnet", "test_byobnet"]
)
def test_twins_of_five_families_under_inductor(name, layout, eager_first):
    torch.manual_seed(0)
    model = timm.create_model(f"{name}_asap", num_classes=7, asap_layout=layout).eval()
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(2, 3, 64, 64)
    if eager_first:
        model(x)
    with torch.no_grad():
        assert_close(compiled(x), plain(x))
        x = torch.randn(3, 3, 96, 64)
        assert_close(compiled(x), plain(x))
    if name == "test_convnext":  # PyTorch 2.14 cannot train the plain one at free sizes: "truth value of Relational"
        torch._dynamo.reset()
    for a, b in zip(train_step(compiled, x), train_step(plain, x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_twins_of_five_families_compile_whole_and_over_sizes(name):
    torch.manual_seed(0)
    model = timm.create_model(f"{name}_asap", num_classes=7).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for size in range(64, 64 + 16 * 10, 16):  # PyTorch gives up after eight graphs for one function
            x = torch.randn(1, 3, size, 96)
            assert_close(compiled(x), model(x))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6, "a graph for every size"
    train_step(compiled, torch.randn(2, 3, 64, 64))


# PyTorch 2.7 says so of every constant of an exported graph, before it registers it.
@pytest.mark.filterwarnings(
    "ignore:Attempted to insert a get_attr:UserWarning",
    "ignore:Node .*lifted:UserWarning",
    "ignore:Additional .* warnings suppressed about get_attr:UserWarning",
)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("free", FREE)
def test_export(pieces, free, strict):
    program = torch.export.export(pieces, (torch.randn(2, 3, 96, 64),), dynamic_shapes=(FREE[free],), strict=strict)
    for shape in SHAPES[free]:
        x = torch.randn(shape)
        assert_close(program.module()(x), pieces(x))
    assert not any("asap" in name for name in program.state_dict)


# torch.onnx's own decomposition step, and its older exporter, call functions that PyTorch deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("exporter", ["export", "trace"])
@pytest.mark.parametrize("free", FREE)
def test_onnx(pieces, free, exporter, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the dev extra installs it")
    file, example = tmp_path / "model.onnx", (torch.randn(2, 3, 96, 64),)
    if exporter == "export":
        torch.onnx.export(pieces, example, file, dynamo=True, dynamic_shapes=(FREE[free],), verbose=False)
    else:
        axes = {"x": {axis: f"axis{axis}" for axis in FREE[free]}}
        torch.onnx.export(pieces, example, str(file), dynamo=False, input_names=["x"], dynamic_axes=axes)
    session = onnxruntime.InferenceSession(file)
    for shape in SHAPES[free]:
        x = torch.randn(shape)
        (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(result, pieces(x).detach().numpy(), atol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")
def test_a_trace_takes_any_size(pieces):
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(pieces, torch.randn(2, 3, 96, 64))
    for shape in SHAPES["size"]:
        x = torch.randn(shape)
        assert_close(traced(x), pieces(x))


MAPS = {
    "contiguous": torch.randn(2, 3, 20, 13, dtype=torch.float64),
    "channels_last": torch.randn(2, 20, 9, 14, dtype=torch.float64).to(memory_format=torch.channels_last),
    "few channels last": torch.randn(2, 3, 9, 14, dtype=torch.float64).to(memory_format=torch.channels_last),
    "no batch": torch.randn(3, 9, 10, dtype=torch.float64),
    "a pixel": torch.randn(2, 3, 1, 1, dtype=torch.float64),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of opcheck's own tensors
@pytest.mark.parametrize("x", MAPS.values(), ids=list(MAPS))
@pytest.mark.parametrize("kind", ["pool", "lowpass", "upsample"])
def test_operator_of_compiled_graphs(x, kind):
    x = x.clone().requires_grad_()  # keeps the memory format
    arguments = (list(x.shape[-2:]), kind, [2, 2], "asap", "reflect", False)
    results = torch.library.opcheck(torch.ops.timm_asap.resample.default, (x, *arguments))
    assert set(results.values()) == {"SUCCESS"}
    y = torch.ops.timm_asap.resample(x, *arguments)
    expected = resample(x, kind, (2, 2), "asap", "reflect")
    torch.testing.assert_close(y, expected)
    assert y.stride() == expected.stride()
    seed = torch.randn_like(y)
    (found,), (wanted,) = (torch.autograd.grad(z, x, seed) for z in (y, expected))
    torch.testing.assert_close(found, wanted)


def test_operator_has_second_derivatives():
    x = MAPS["no batch"].clone().requires_grad_()
    torch.autograd.gradgradcheck(
        lambda z: torch.ops.timm_asap.resample(z, [9, 10], "pool", [3, 2], "asap", "zero", False).square(), (x,)
    )


@pytest.mark.parametrize("shape", [(4, 2, 3, 8, 9), (4, 3, 8, 9)])
def test_compiled_vmap_and_autocast(shape):
    layer, x = AsapPool2d(), torch.randn(shape)
    compiled = torch.compile(lambda z: torch.func.vmap(lambda one: layer(one))(z), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), torch.func.vmap(layer)(x))
    half = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert half(x[0]).dtype == torch.bfloat16
        torch.testing.assert_close(half(x[0]), layer(x[0]))
