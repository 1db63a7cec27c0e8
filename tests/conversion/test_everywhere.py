"""The operator and converted networks under every tool of PyTorch that users bring."""

import copy
import pickle
import threading

import pytest
import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, hessian, jvp, vmap

from timm_asap import AsapPool2d, asap_pool2d, convert, lowpass2d
from timm_asap.ops.resample import MatrixCache, _Key, matrix_cache


@pytest.fixture
def empty_cache():
    matrix_cache.clear()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model("resnet20_lowres_asap").eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# Largest error against float64, as a share of the largest input, over maps of 7 to 224 of standard normal numbers.
# Half a unit in the last place is 2**-9 = 0.0020 for bfloat16 and 2**-12 = 0.00024 for float16; the docstrings of
# `lowpass2d` and `asap_pool2d` state these bounds.
ERROR_BOUNDS = {torch.bfloat16: 6e-3, torch.float16: 8e-4, torch.float32: 1e-6}


@pytest.mark.parametrize("dtype", ERROR_BOUNDS)
@pytest.mark.parametrize("operator", [asap_pool2d, lowpass2d])
@pytest.mark.parametrize("boundary", ["circular", "reflect", "zero"])
def test_half_precision_errors_are_bounded(dtype, operator, boundary):
    generator = torch.Generator().manual_seed(0)
    for size in (7, 14, 28, 56, 112, 224):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(1, 4, size, size, generator=generator).to(dtype).contiguous(memory_format=memory_format)
            result = operator(x, boundary=boundary)
            assert result.dtype == dtype
            error = (result.double() - operator(x.double(), boundary=boundary)).abs().max() / x.double().abs().max()
            assert error < ERROR_BOUNDS[dtype], (size, memory_format, error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype, network, images):
    with torch.autocast("cpu", dtype=dtype):
        assert asap_pool2d(images).dtype == dtype
        half = network(images)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), network(images), atol=0.05, rtol=0.05)


# Forward-mode differentiation makes PyTorch load decompositions that it compiles with its own deprecated jit.
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_func_transforms(empty_cache):
    pool = AsapPool2d()
    x = torch.randn(4, 2, 3, 8, 6)
    torch.testing.assert_close(vmap(pool)(x), torch.stack([pool(sample) for sample in x]))
    torch.testing.assert_close(pool(x[0]), asap_pool2d(x[0]))  # what vmap put into the cache serves others
    torch.testing.assert_close(grad(lambda x: pool(x).square().sum())(x[0]), _gradient(pool, x[0]))
    torch.testing.assert_close(jvp(pool, (x[0],), (x[1],))[1], pool(x[1]))  # linear: its derivative is itself
    layer = nn.Conv2d(3, 2, 3, stride=2, padding=1)
    convert(layer)

    def loss(parameters, sample):
        return functional_call(layer, parameters, (sample[None],)).square().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))(dict(layer.named_parameters()), x[:, 0])
    assert per_sample["weight"].shape == (4, *layer.weight.shape)
    second = hessian(lambda x: pool(x).square().sum())(torch.randn(1, 1, 4, 4, dtype=torch.float64))
    assert torch.equal(second.reshape(16, 16), second.reshape(16, 16).T)


def _gradient(function, x):
    x = x.clone().requires_grad_()
    function(x).square().sum().backward()
    return x.grad


@pytest.mark.parametrize("operator", [asap_pool2d, lowpass2d])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_double_backward(operator, memory_format):
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: operator(x).sin(), (x,))


def test_evaluate_then_train_in_one_process(network, images, empty_cache):
    with torch.inference_mode():
        network(images)
    network(images).sum().backward()
    network.zero_grad()


@pytest.mark.parametrize("active", [True, False])
def test_fake_tensors(images, empty_cache, active):
    mode = FakeTensorMode()
    pool = AsapPool2d()
    fake = mode.from_tensor(images)
    if active:
        with mode:
            result = pool(fake)
    else:
        result = pool(fake)
    assert result.shape == (2, 3, 16, 16)
    assert type(pool(images)) is torch.Tensor


def test_meta_construction(empty_cache):
    with torch.device("meta"):
        model = timm.create_model("resnet20_lowres_asap")
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    model.to_empty(device="cpu")
    assert model(torch.zeros(2, 3, 32, 32)).device.type == "cpu"


def test_default_device_and_dtype_do_not_reach_the_cache(empty_cache):
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            asap_pool2d(torch.zeros(1, 1, 8, 8, device="cpu", dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert asap_pool2d(torch.ones(1, 1, 8, 8)).sum() == pytest.approx(16)


def test_the_cache_is_bounded_and_thread_safe(empty_cache):
    failures = []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        for size in torch.randint(4, 200, (40,), generator=generator).tolist():
            row = torch.rand(1, 1, 1, size, generator=generator)
            if not torch.allclose(lowpass2d(row).mean(), row.mean(), atol=1e-5):
                failures.append(size)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_cache_is_bounded_by_bytes():
    device = torch.device("cpu")
    keys = [_Key("pool", (n,), (2,), "asap", "circular", torch.float64, device) for n in (16, 32, 64, 256)]
    sizes = [8 * n * n // 2 for n in (16, 32, 64, 256)]
    cache = MatrixCache(max_bytes=sizes[1] + sizes[2])
    matrices = [cache.get(key) for key in keys[:3]]
    assert (len(cache), cache.bytes) == (2, sizes[1] + sizes[2])  # the one used longest ago is gone
    assert cache.get(keys[1]) is matrices[1]
    assert cache.get(keys[0]) is not matrices[0]
    assert cache.get(keys[1]) is matrices[1]  # it was used after the third
    assert cache.get(keys[3]).shape == (128, 256)  # larger than the cache: built and handed out
    assert cache.get(keys[1]) is matrices[1]  # and pushed nothing out
    assert cache.bytes <= cache.max_bytes


def test_nothing_enters_the_state_dict_or_the_module(network, images):
    before = {name: set(vars(module)) for name, module in network.named_modules()}
    state = list(network.state_dict())
    network(images)
    network(torch.zeros(1, 3, 40, 28))
    assert list(network.state_dict()) == state
    assert {name: set(vars(module)) for name, module in network.named_modules()} == before
    plain = timm.create_model("resnet20_lowres")
    assert state == list(plain.state_dict())


def test_copies_and_pickles(network, images):
    expected = network(images)
    assert torch.equal(copy.deepcopy(network)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(images), expected)
    assert torch.equal(copy.copy(network)(images), expected)


def test_torch_save_of_a_whole_model(network, images, tmp_path):
    torch.save(network, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(loaded(images), network(images))


def test_distributed_data_parallel(network, images, tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(network).train())
        wrapped(images).sum().backward()
        assert all(p.grad is not None for p in wrapped.parameters())
        assert {name.removeprefix("module.") for name in wrapped.state_dict()} == set(network.state_dict())
    finally:
        torch.distributed.destroy_process_group()


def test_channels_last_reaches_the_end_of_a_converted_layer():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 4, 1, stride=2))
    convert(model)
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    result = model(x.contiguous(memory_format=torch.channels_last))
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
    assert model(x.contiguous(memory_format=torch.channels_last).requires_grad_()).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_cuda_equals_cpu(dtype, memory_format):
    bound = ERROR_BOUNDS.get(dtype, 1e-12)
    for operator in (asap_pool2d, lowpass2d):
        for size in ((7, 7), (14, 9), (56, 56), (112, 224)):
            x = torch.randn(2, 8, *size).to(dtype).contiguous(memory_format=memory_format)
            result = operator(x.cuda())
            assert result.is_contiguous(memory_format=memory_format)
            error = (result.cpu().double() - operator(x.double())).abs().max() / x.double().abs().max()
            # TF32 is off by default for matrix products, so float32 is float32 here.
            assert error < bound, (operator, size, error)
