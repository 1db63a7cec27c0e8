"""The aliasing measures on maps worked by hand, at the layers of small layers, and in networks and their twins."""

import math
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from rich.console import Console
from timm.layers import AvgPool2dSame, BlurPool2d, ConvNormAct
from timm.models.inception_v3 import InceptionB
from timm.models.levit import Downsample
from torch import nn

import timm_asap
from timm_asap.errors import UserError
from timm_asap.evaluation.aliasing import (
    aliasing_table,
    map_aliasing,
    measure_aliasing,
    measure_batch,
    merge_aliasing,
    sampled_layers,
)
from timm_asap.evaluation.aliasing.energy import fixed_filter


def wave(size, k_rows=0, k_columns=0, phase=0.0):
    """A cosine (1, 1, H, W) of so many periods per axis."""
    rows = torch.arange(size[0], dtype=torch.float64)[:, None] * k_rows / size[0]
    columns = torch.arange(size[1], dtype=torch.float64)[None, :] * k_columns / size[1]
    return torch.cos(2 * math.pi * (rows + columns) + phase)[None, None]


# size, stride, and the first frequency above the cut on an axis of 12, 16 and 15 samples
CUTS = [(12, 2, 4), (12, 3, 3), (16, 2, 5), (16, 4, 3), (15, 2, 4), (15, 4, 2)]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("n", "stride", "first_above"), CUTS)
def test_a_cosine_is_above_or_below(n, stride, first_above, axis):
    other = 10
    size = (n, other) if axis == 0 else (other, n)
    for k in range(1, n // 2 + 1):
        x = wave(size, *((k, 0) if axis == 0 else (0, k)), phase=0.3)
        both, along = map_aliasing(x, (stride, stride)), [1, 1]
        along[axis] = stride
        for result in (both, map_aliasing(x, tuple(along))):
            share = float(k >= first_above)
            assert result.above_nyquist.item() == pytest.approx(share, abs=1e-12), k
            assert result.folded.item() == pytest.approx(share, abs=1e-12), k
            assert result.constant.item() == pytest.approx(0, abs=1e-12)
        across = [stride, stride]
        across[axis] = 1
        assert map_aliasing(x, tuple(across)).above_nyquist.item() == pytest.approx(0, abs=1e-12)


def test_energies_add_up_by_hand():
    """Mean 1, amplitude 2 below the cut (energy 2 per sample), amplitude 1 above it (energy 1 / 2)."""
    x = 1 + 2 * wave((16, 16), 2, 3) + wave((16, 16), 1, 6)
    result = map_aliasing(x.expand(3, 4, 16, 16), (2, 2))
    torch.testing.assert_close(result.constant, torch.full((3,), 1 / 3.5, dtype=torch.float64))
    torch.testing.assert_close(result.above_nyquist, torch.full((3,), 0.5 / 3.5, dtype=torch.float64))
    torch.testing.assert_close(result.folded, torch.full((3,), 0.5 / 3.5, dtype=torch.float64))


def test_what_folds_back_depends_on_where_it_is_sampled():
    """The alternation of neighbors is 1 at every sample taken; moved by a quarter period it is 0 there."""
    seen, unseen = wave((8, 8), 0, 4), wave((8, 8), 0, 3) - wave((8, 8), 0, 1)
    assert map_aliasing(0.5 + seen, (2, 2)).folded.item() == pytest.approx(1 / 1.25)
    # cos 3 and -cos 1 coincide on every second sample but for their sign
    result = map_aliasing(unseen, (2, 2))
    assert result.above_nyquist.item() == pytest.approx(0.5)
    assert result.folded.item() == pytest.approx(0.5)


@pytest.mark.parametrize(("stride", "size"), [((2, 2), (32, 24)), ((1, 2), (24, 32)), ((4, 3), (25, 36))])
def test_white_noise_reads_the_share_of_the_frequencies(stride, size):
    kept = [
        sum(2 * s * abs(k) <= n for k in range(-((n - 1) // 2), n // 2 + 1)) for n, s in zip(size, stride, strict=True)
    ]
    share = 1 - kept[0] * kept[1] / (size[0] * size[1])
    generator = torch.Generator().manual_seed(0)
    result = map_aliasing(torch.randn(4, 64, *size, generator=generator), stride)
    torch.testing.assert_close(result.above_nyquist, torch.full((4,), share, dtype=torch.float64), atol=0.01, rtol=0)
    torch.testing.assert_close(result.folded, torch.full((4,), share, dtype=torch.float64), atol=0.02, rtol=0)
    assert result.power.mean(0).sub(1).abs().max() < 0.15


def test_the_spectrum_holds_the_energy_between_its_bins():
    x = wave((16, 32), 0, 3) + 3 * wave((16, 32), 7, 0)
    result = map_aliasing(x, (2, 2))
    # 8 bins up to the new Nyquist frequency, which is 8 on the longer axis and 4 on the shorter one
    assert result.frequency.tolist() == [(i + 0.5) / 8 for i in range(16)]
    at = {round(f.item(), 4): p.item() for f, p in zip(result.frequency, result.power[0], strict=True) if p > 1e-9}
    # 3 / 8 along the columns, in a bin with columns +-3 of 3 rows; 14 / 8 along the rows, in one of 2 x 29 + 2 x 13
    assert at == {2.5 / 8: pytest.approx(0.1 * 512 / 6), 13.5 / 8: pytest.approx(0.9 * 512 / 84)}


def test_power_times_members_is_the_energy():
    x = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    result = map_aliasing(x, (2, 2))
    assert result.frequency.tolist() == [0.5, 1.5]
    members = torch.tensor([8.0, 40.0], dtype=torch.float64)  # 3 x 3 without the mean, and the rest of 7 x 7
    energy = result.power * members / 49
    torch.testing.assert_close(energy.sum(1) + result.constant, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(energy[:, 1], result.above_nyquist)


def test_nothing_and_single_samples():
    empty = map_aliasing(torch.zeros(1, 2, 8, 8), (2, 2))
    assert (empty.above_nyquist, empty.folded, empty.constant) == (0, 0, 0)
    single = map_aliasing(torch.ones(1, 2, 1, 1), (2, 2))
    assert (single.above_nyquist, single.folded, single.constant) == (0, 0, 1)
    constant = map_aliasing(torch.full((1, 2, 7, 5), 0.1), (2, 2))
    assert constant.above_nyquist < 1e-12
    assert constant.folded < 1e-12


def test_large_maps_are_taken_in_parts(monkeypatch):
    x = torch.randn(5, 2, 8, 8)
    whole = map_aliasing(x, (2, 2))
    monkeypatch.setattr("timm_asap.evaluation.aliasing.energy._CHUNK", 2 * 2 * 64)
    parts = map_aliasing(x, (2, 2))
    for name in ("above_nyquist", "folded", "constant", "power"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def the_site(layer, x):
    """The only layer of a layer, plain and converted (layout preserve), for one batch."""
    layer = layer.eval()
    plain = measure_batch(layer, x)
    timm_asap.convert(layer, stem=True)
    converted = measure_batch(layer, x)
    assert len(plain) == len(converted) == 1
    assert (plain[0].status, converted[0].status) == ("plain", "converted")
    return plain[0], converted[0]


def test_a_convolution_samples_its_input():
    x = (1 + wave((12, 12), 0, 2) + wave((12, 12), 4, 0)).float().repeat(2, 3, 1, 1)
    for kernel, padding in ((1, 0), (3, 1), (3, 0)):
        plain, converted = the_site(nn.Conv2d(3, 4, kernel, stride=2, padding=padding), x)
        assert plain.above_nyquist == pytest.approx(0.25, abs=1e-6)
        assert converted.above_nyquist < 1e-12
        assert converted.folded < 1e-12
        assert converted.map_size == plain.map_size == (3, 12, 12)
        assert converted.images == 2


@pytest.mark.parametrize(
    ("pool", "dense"),
    [
        (nn.MaxPool2d(3, 2, 1), lambda x: F.max_pool2d(x, 3, 1, 1)),
        (nn.MaxPool2d(2, 2), lambda x: F.max_pool2d(x, 2, 1)),
        (nn.MaxPool2d((1, 3), (1, 2)), lambda x: F.max_pool2d(x, (1, 3), 1)),
        (
            nn.MaxPool2d(3, 2, ceil_mode=True),
            lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 0), value=-torch.inf), 3, 1),
        ),
    ],
)
def test_a_max_pool_samples_the_dense_maximum(pool, dense):
    x = torch.randn(2, 3, 15, 18)
    expected = map_aliasing(dense(x), tuple(pool.stride) if isinstance(pool.stride, tuple) else (pool.stride,) * 2)
    plain, converted = the_site(pool, x)
    assert plain.above_nyquist == pytest.approx(expected.above_nyquist.mean().item(), rel=1e-6)
    assert plain.folded == pytest.approx(expected.folded.mean().item(), rel=1e-6)
    assert plain.above_nyquist > 0.01
    assert converted.above_nyquist < 1e-12


@pytest.mark.parametrize(
    ("pool", "gain"),
    [
        (nn.AvgPool2d(2, 2), lambda f: math.cos(math.pi * f) ** 2),
        (nn.AvgPool2d(3, 2, padding=1), lambda f: ((1 + 2 * math.cos(2 * math.pi * f)) / 3) ** 2),
        (BlurPool2d(3, 3, stride=2), lambda f: math.cos(math.pi * f) ** 4),
        (BlurPool2d(None, 5, stride=2), lambda f: math.cos(math.pi * f) ** 8),
    ],
)
def test_average_and_blur_pools_sample_what_their_filter_leaves(pool, gain):
    # periods per sample 1/6 below the new Nyquist frequency and 5/12 above, on either axis
    x = (1 + wave((12, 24), 5, 0) + wave((12, 24), 0, 4)).float().repeat(2, 3, 1, 1)
    above, below = 0.5 * gain(5 / 12), 0.5 * gain(1 / 6)
    plain, converted = the_site(pool, x)
    assert plain.above_nyquist == pytest.approx(above / (1 + above + below), rel=1e-4)
    assert converted.above_nyquist < 1e-12


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2, 2),
        nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d((3, 1), (2, 1), padding=(1, 0)),
        AvgPool2dSame(3, 2),
        AvgPool2dSame(2, 2),
        BlurPool2d(3, 3, stride=2),
        BlurPool2d(3, 4, stride=2),
        BlurPool2d(3, 5, stride=3),
    ],
)
def test_the_filter_at_stride_1_has_the_samples_of_the_pool(pool):
    x = torch.randn(2, 3, 17, 22)
    stride = pool.stride if isinstance(pool.stride, tuple) else (pool.stride, pool.stride)
    ours, theirs = fixed_filter(pool, x)[..., :: stride[0], :: stride[1]], pool(x)
    inside = (slice(None), slice(None), slice(2, 4), slice(2, 4))  # away from the edges, where padding enters
    torch.testing.assert_close(ours[inside], theirs[inside])


def test_branches_and_token_slices_are_measured():
    x = torch.randn(2, 8, 14, 14)
    block = nn.Sequential(InceptionB(8, conv_block=partial(ConvNormAct, padding=0))).eval()
    plain = {site.site: site for site in measure_batch(block, x)}
    assert plain["0"].above_nyquist == pytest.approx(
        map_aliasing(F.max_pool2d(x, 3, 1), (2, 2)).above_nyquist.mean().item(), rel=1e-6
    )
    timm_asap.convert(block)
    assert max(site.above_nyquist for site in measure_batch(block, x)) < 1e-12

    tokens, layer = torch.randn(2, 6 * 6, 4), Downsample(2, (6, 6))
    image = tokens.transpose(1, 2).reshape(2, 4, 6, 6)
    plain, converted = the_site(layer, tokens)
    assert plain.above_nyquist == pytest.approx(map_aliasing(image, (2, 2)).above_nyquist.mean().item(), rel=1e-6)
    assert converted.above_nyquist < 1e-12


@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("resnet20_lowres", 28),
        ("test_convnext", 48),
        ("densenet121", 64),
        ("mobilenetv3_small_050", 70),
    ],
)
def test_twins_read_nothing_and_plain_networks_do(name, size, layout):
    torch.manual_seed(0)
    plain = timm.create_model(name).eval()
    twin = timm.create_model(f"{name}_asap", asap_layout=layout).eval()
    twin.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, size, size)
    before, after = measure_aliasing(plain, [images]), measure_aliasing(twin, [images])
    assert {site.site for site in after} == {site.site for site in before}
    converted = [site for site in after if site.status == "converted"]
    assert len(converted) == sum(site.status == "plain" for site in before) > 0
    for site in converted:
        assert site.above_nyquist < 1e-6
        assert site.folded < 1e-6
        beyond = [p for f, p in zip(site.frequency, site.power, strict=True) if f > 1]
        assert max(beyond, default=0) < 1e-6
    assert min(site.above_nyquist for site in before if min(site.map_size[1:]) > 4) > 1e-3


def test_a_patchify_stem_is_shown_as_left():
    twin = timm.create_model("test_convnext_asap").eval()
    stem = measure_aliasing(twin, [torch.randn(1, 3, 32, 32)])[0]
    assert (stem.site, stem.status, stem.stride) == ("stem.0", "left", (4, 4))
    assert "patchify" in stem.reason
    assert stem.above_nyquist > 0.5


def test_measuring_leaves_the_model_as_it_was():
    for name in ("resnet18", "resnet18_asap"):
        model, images = timm.create_model(name).eval(), torch.randn(1, 3, 64, 64)
        before, keys = model(images), {n: set(vars(m)) for n, m in model.named_modules()}
        for _ in range(2):
            measure_aliasing(model, [images])
        assert {n: set(vars(m)) for n, m in model.named_modules()} == keys
        assert not any(m._forward_pre_hooks for m in model.modules())
        assert torch.equal(model(images), before)


def test_a_failing_pass_leaves_no_watch_behind():
    model = timm.create_model("resnet18_asap").eval()
    with pytest.raises(RuntimeError):
        measure_aliasing(model, [torch.randn(1, 5, 64, 64)])
    assert not any("_lowpass" in vars(m) or "_pool" in vars(m) for m in model.modules())


def test_batches_count_by_their_images():
    model = timm.create_model("resnet20_lowres").eval()
    images = torch.randn(7, 3, 32, 32)
    whole = measure_aliasing(model, [images])
    parts = measure_aliasing(model, ((part, torch.zeros(len(part))) for part in images.split(3)))
    for one, other in zip(whole, parts, strict=True):
        assert other.images == 7
        for name in ("above_nyquist", "folded", "constant", "power"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-5), name
    again = merge_aliasing([measure_batch(model, part) for part in images.split(3)])
    assert again == parts


def test_errors():
    model = timm.create_model("resnet20_lowres")
    with pytest.raises(ValueError, match=r"training mode: call model.eval\(\)"):
        measure_batch(model, torch.randn(1, 3, 32, 32))
    with pytest.raises(UserError, match="at least one image"):
        measure_aliasing(model.eval(), [])
    with pytest.raises(UserError, match="images of one size"):
        measure_aliasing(model, [torch.randn(1, 3, 32, 32), torch.randn(1, 3, 40, 40)])


def test_record_and_table():
    plain, twin = timm.create_model("resnet20_lowres").eval(), timm.create_model("resnet20_lowres_asap").eval()
    images = torch.randn(2, 3, 32, 32)
    results = {
        "plain": [site.record() for site in measure_aliasing(plain, [images])],
        "twin": [site.record() for site in measure_aliasing(twin, [images])] + [{"measure": "clean"}],
    }
    first = results["twin"][0]
    assert first["id"] == "aliasing/layer2.0.conv1"
    assert (first["stride"], first["status"], first["images"]) == ([2, 2], "converted", 2)
    assert len(first["spectrum"]["frequency"]) == len(first["spectrum"]["power"]) == 16
    console = Console(width=120)
    with console.capture() as capture:
        aliasing_table(results).print(console)
    text = capture.get()
    assert f"{results['plain'][0]['above_nyquist']:.4f}" in text
    assert f"{first['folded']:.0e}" in text
    assert text.count("layer3.0.conv1") == 1


def test_merging_of_tokens_is_measured_on_their_grid():
    torch.manual_seed(0)
    twin = timm.create_model("swin_tiny_patch4_window7_224_asap", img_size=64, window_size=4).eval()
    plain = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4).eval()
    names = ["patch_embed.proj", "layers.1.downsample", "layers.2.downsample", "layers.3.downsample"]
    assert [site.name for site in sampled_layers(plain)] == [site.name for site in sampled_layers(twin)] == names
    images = torch.randn(2, 3, 64, 64)
    before, after = measure_aliasing(plain, [images]), measure_aliasing(twin, [images])
    assert [site.site for site in before] == [site.site for site in after] == names
    assert [site.map_size for site in after[1:]] == [(96, 16, 16), (192, 8, 8), (384, 4, 4)]
    assert max(site.above_nyquist for site in after[1:]) < 1e-6 < min(site.above_nyquist for site in before[1:3])


def test_sites_without_a_map_are_left_out():
    with torch.device("meta"):
        assert [site.name for site in sampled_layers(timm.create_model("hiera_tiny_224"))] == ["patch_embed.proj"]
