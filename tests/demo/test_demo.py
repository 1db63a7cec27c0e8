"""The demo without its page: the two networks, pictures of every kind, and what is answered to them."""

import html

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.support.demo_models import DIGITS, save_digits_twin, save_network
from timm_asap import data
from timm_asap.commands import demo as command
from timm_asap.data.config import PixelConfig
from timm_asap.data.images import ImageFileError
from timm_asap.demo import open_pair, predict, predictions
from timm_asap.demo.predictions import CLEAN, corruption_names, read_pixels, write_examples
from timm_asap.errors import UserError
from timm_asap.evaluation import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def small(folder):
    return open_pair(str(save_digits_twin(folder / "digits_run")))


@pytest.fixture(scope="module")
def large(folder):
    """A plain network for photographs, with ImageNet's number of classes."""
    return open_pair(str(save_network(folder / "photo_run", "test_resnet", None, (3, 96, 96))))


@pytest.fixture(scope="module")
def digit(small, folder):
    (folder / "digits").mkdir()
    return write_examples(small, folder / "digits")[0][3]


def test_the_plain_network_has_the_same_weights_and_plain_strides(small, folder):
    state = timm.create_model(f"local-dir:{folder / 'digits_run'}", pretrained=True).state_dict()
    plain = timm.create_model("resnet20_lowres", num_classes=10, in_chans=1).eval()
    plain.load_state_dict(dict(state))  # without the mark of a conversion
    pixels = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain((pixels - 0.3) / 0.4).softmax(1)
    torch.testing.assert_close(small.plain.probabilities(pixels), expected)
    assert (small.twin.probabilities(pixels) - expected).abs().max() > 1e-3
    assert small.same_weights
    assert small.twin.title == "resnet20_lowres_asap (digits_run)"
    assert small.plain.title == "resnet20_lowres, same weights, strides unswapped"


def test_the_twin_of_a_plain_network_is_converted(large):
    assert large.twin.title == "test_resnet_asap, same weights, strides swapped"
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    folded = {model: [site.folded for site in model.aliasing(pixels)] for model in (large.plain, large.twin)}
    assert max(folded[large.twin]) < 1e-6 < 0.01 < max(folded[large.plain])


def test_another_run_as_the_plain_network(folder, small):
    plain = save_network(folder / "other", "resnet20_lowres", DIGITS[::-1], seed=1)
    pair = open_pair(str(folder / "digits_run"), str(plain))
    assert not pair.same_weights
    assert pair.plain.title == "resnet20_lowres (other)"
    assert pair.plain.class_names == tuple(reversed(pair.twin.class_names))
    pixels = torch.zeros(1, 1, 32, 32)
    assert not torch.allclose(pair.plain.probabilities(pixels), small.plain.probabilities(pixels))


def test_names_of_classes(large):
    names = large.twin.class_names
    assert names[1] == "goldfish"
    assert [name for name in names if name.startswith("crane")] == ["crane (134)", "crane (517)"]
    assert len(set(names)) == 1000


def test_an_example_is_what_an_evaluation_would_show(small, large, digit, tmp_path):
    digits = data.load_dataset("digits")
    position = int(torch.nonzero(digits.test.labels == 3)[0])
    split = digits.test.select(torch.tensor([position]))
    loader = data.build_loader(split, digits, 1, training=False, pixels=PixelConfig().without_normalization())
    assert torch.equal(read_pixels(digit, small), next(iter(loader))[0])

    photograph = write_examples(large, tmp_path)[0][0]
    for part in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "set" / part).mkdir(parents=True)
        (tmp_path / "set" / part / "1.jpg").write_bytes(photograph.read_bytes())
    photographs = data.load_dataset("imagefolder", str(tmp_path / "set"))
    loader = data.build_loader(
        photographs.test,
        photographs,
        1,
        training=False,
        pixels=large.pixels.without_normalization(),
    )
    torch.testing.assert_close(read_pixels(photograph, large), next(iter(loader))[0], atol=1e-6, rtol=0)


PICTURES = {
    "gray": Image.new("L", (40, 50), 102),
    "transparent": Image.new("RGBA", (90, 70), (255, 0, 0, 0)),
    "16-bit": Image.fromarray(np.full((80, 80), 26214, np.uint16)),
    "palette": Image.new("L", (64, 64), 102).convert("P"),
    "tiny": Image.new("L", (1, 1), 102),
    "huge": Image.new("L", (6000, 4000), 102),
    "hair": Image.new("L", (1, 5000), 102),
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("size", ["small", "large"])
def test_pictures_of_every_kind(kind, size, small, large, tmp_path):
    pair = small if size == "small" else large
    PICTURES[kind].save(tmp_path / "picture.png")
    pixels = read_pixels(tmp_path / "picture.png", pair)
    assert pixels.shape == (1, *pair.pixels.input_size)
    assert pixels.dtype == torch.float32
    # transparent shows white; 102 of 255 and 26214 of 65535 are the same gray
    level = 1.0 if kind == "transparent" else 0.4
    height, width = pair.pixels.input_size[1:]
    seen = pixels.max() if kind == "tiny" else pixels[0, 0, height // 2, width // 2]
    # a single pixel on its frame of zeros fades where it is enlarged
    assert seen.item() == pytest.approx(level, abs=0.15 if kind == "tiny" else 1e-6)
    answer = predict(pair, tmp_path / "picture.png", "brightness", 1)
    assert len(answer.twin) == len(answer.plain) == 5
    assert all(np.isfinite(list(answer.twin.values()) + list(answer.plain.values())))


def test_a_small_picture_is_framed_as_small_data_sets_are(small, tmp_path):
    Image.new("L", (28, 28), 102).save(tmp_path / "picture.png")
    expected = torch.zeros(1, 1, 32, 32)
    expected[..., 2:30, 2:30] = 0.4
    torch.testing.assert_close(read_pixels(tmp_path / "picture.png", small), expected)


def test_a_hair_loses_its_ends_before_it_is_enlarged(large, tmp_path, monkeypatch):
    taken, create = [], predictions.create_transform

    def watched(*args, **kwargs):
        transform = create(*args, **kwargs)
        return lambda picture: taken.append(np.asarray(picture)[..., 0]) or transform(picture)

    monkeypatch.setattr(predictions, "create_transform", watched)
    Image.fromarray(np.arange(200, dtype=np.uint8)[:, None].repeat(2, axis=1)).save(tmp_path / "picture.png")
    read_pixels(tmp_path / "picture.png", large)
    assert taken[0].tolist() == [[level] * 2 for level in range(84, 116)]


def test_what_is_no_picture(small, tmp_path):
    assert predict(small, None) is None
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(ImageFileError, match=r"^cannot read notes.png: not an image") as raised:
        predict(small, tmp_path / "notes.png")
    assert str(tmp_path) not in str(raised.value)


def test_what_is_not_decoded_for_visitors(small, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "picture.eps")
    (tmp_path / "picture.eps").rename(tmp_path / "picture.png")
    with pytest.raises(ImageFileError, match=r"picture\.png: not an image that is decoded here \(JPEG, PNG,"):
        predict(small, tmp_path / "picture.png")
    Image.new("1", (8200, 8200)).save(tmp_path / "picture.png")
    with pytest.raises(ImageFileError, match="its 8200 x 8200 pixels are more than the 67,108,864 that are decoded"):
        predict(small, tmp_path / "picture.png")


def test_an_answer(small, digit):
    clean, noisy = predict(small, digit), predict(small, digit, "gaussian_noise", 5)
    expected = corrupt(read_pixels(digit, small), "gaussian_noise", 5, "cifar")
    assert np.array_equal(noisy.seen[::8, ::8, 0], (expected[0, 0] * 255).round().numpy())
    assert noisy.seen.shape == (256, 256, 3)
    probabilities = small.twin.probabilities(expected)[0]
    assert noisy.twin == {small.twin.class_names[i]: probabilities[i].item() for i in probabilities.topk(5).indices}
    assert clean.twin != noisy.twin
    assert noisy.spectra.dtype == np.uint8
    assert noisy.spectra.shape[0] > 150
    assert noisy.spectra.min() < 50 < 250 < noisy.spectra.max()
    plain, twin = html.unescape(noisy.aliasing).split("\n")
    assert plain.startswith("- **plain strides** (resnet20_lowres, same weights, strides unswapped): up to **")
    assert twin.startswith("- **alias-free** (resnet20_lowres_asap (digits_run)): **less than 0.0001 %**")
    again = predict(small, digit, "gaussian_noise", 5)
    assert again.twin == noisy.twin
    assert np.array_equal(again.spectra, noisy.spectra)


def test_the_verdict_names_both_answers(small, digit):
    answer = predict(small, digit)
    ours, theirs = next(iter(answer.twin)), next(iter(answer.plain))
    names = [ours] if ours == theirs else [ours, theirs]
    assert answer.verdict.split("**")[1::2] == names
    frost = predict(small, digit, "frost", 1)
    assert "This frost is approximate: " in frost.verdict


def test_every_corruption_is_offered_where_it_can_be(small, large, folder):
    assert corruption_names(small) == corruption_names(large) == [CLEAN, *CORRUPTIONS, *EXTRA_CORRUPTIONS]
    assert (small.table, large.table) == ("cifar", "imagenet")
    tiny = open_pair(str(save_network(folder / "tiny", "resnet20_lowres_asap", DIGITS, (1, 16, 16))))
    assert corruption_names(tiny) == [CLEAN]
    for name, severity in (("gaussian_nose", 3), ("fog", 6)):
        with pytest.raises(UserError):
            predict(small, write_examples(small, _new(folder / name))[0][0], name, severity)


def test_examples(small, large, folder, tmp_path):
    paths, credits = write_examples(small, _new(tmp_path / "digits"))
    assert [path.name for path in paths] == [f"digit_{digit}.png" for digit in range(10)]
    assert "other classes" not in credits
    clothes = open_pair(str(save_network(folder / "clothes", "resnet20_lowres_asap", ["boot", "bag", "coat"])))
    assert "other classes" in write_examples(clothes, _new(tmp_path / "clothes"))[1]
    paths, credits = write_examples(large, _new(tmp_path / "photographs"))
    assert [path.name for path in paths] == ["china.jpg", "flower.jpg"]
    assert read_pixels(paths[1], large).std() > 0.1
    assert "CC BY 2.0" in credits
    own = _new(tmp_path / "own")
    Image.new("L", (28, 28)).save(own / "boot.png")
    (own / "notes.txt").write_text("")
    paths, _ = write_examples(small, _new(tmp_path / "copied"), str(own))
    assert [path.name for path in paths] == ["boot.png"]
    (own / "boot.png").unlink()
    for source, message in ((own, "holds no picture"), (tmp_path / "none", "no such folder")):
        with pytest.raises(UserError, match=message):
            write_examples(small, tmp_path, str(source))


def _new(folder):
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (("resnet20_lowres_asap", DIGITS), "is alias-free itself: expected a network with plain strides"),
        (("resnet20_lowres", DIGITS[:9]), r"has 10 classes \(0, 1, 2, ...\), and --plain .* 9 classes"),
        (("resnet20_lowres", DIGITS, (3, 32, 32)), "takes images of 1 x 32 x 32, and --plain .* of 3 x 32 x 32"),
    ],
)
def test_plain_networks_that_do_not_fit(plain, message, small, folder, tmp_path):
    save_network(tmp_path / "plain", *plain)
    with pytest.raises(UserError, match=message):
        open_pair(str(folder / "digits_run"), str(tmp_path / "plain"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/none"], "there is no folder"),
        (["resnet5o"], "unknown model 'resnet5o'"),
        (["{vit}"], "has no strided layer to convert"),
        (["{run}", "--corruption", "fogg"], "unknown corruption 'fogg'"),
        (["{run}", "--severity", "6"], "--severity: expected 1 to 5, got 6"),
        (["{run}", "--port", "70000"], "--port: expected 1 to 65535, got 70000"),
        (["{run}", "--space", "{tmp}/space", "--share"], "--space serves nothing: leave out --share and --port"),
        (["{run}", "--space", "{run}"], "is there already: expected a new folder, or an empty one"),
        (["{run}", "--examples", "{tmp}/none"], "--examples .*none: there is no such folder"),
    ],
)
def test_mistakes_are_one_line(words, message, small, folder, tmp_path):
    if "{vit}" in words:
        save_network(tmp_path / "vit", "test_vit", DIGITS, (3, 160, 160))
    places = {"tmp": tmp_path, "run": folder / "digits_run", "vit": tmp_path / "vit"}
    with pytest.raises(UserError, match=message) as raised:
        command.main([word.format(**places) for word in words])
    assert "\n" not in str(raised.value)


def test_without_gradio_the_extra_is_named(folder, small, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs gradio: pip install 'timm_asap\[demo\]'"):
        command.main([str(folder / "digits_run")])
