"""ONNX export: the same scores for every batch size, what to do with an image, and no file that is wrong."""

import json

import numpy as np
import pytest
import timm
import torch
from timm.models import save_for_hf

import timm_asap  # noqa: F401  registers the twins
from timm_asap.commands.export import main
from timm_asap.errors import UserError
from timm_asap.hub import export_onnx, load, onnx_export

onnx = pytest.importorskip("onnx", reason="the dev extra installs it")
onnxruntime = pytest.importorskip("onnxruntime", reason="the dev extra installs it")
pytest.importorskip("onnxscript", reason="the dev extra installs it")

LABELS = ["boot", "bag", "coat"]
PIXELS = {"mean": (0.2, 0.4, 0.6), "std": (0.3, 0.2, 0.1), "input_size": (3, 32, 32), "crop_pct": 1.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "net"
    torch.manual_seed(0)
    model = timm.create_model("test_resnet_asap", num_classes=3)
    save_for_hf(model, folder, safe_serialization=True, data_config=PIXELS, model_config={"label_names": LABELS})
    return folder


@pytest.fixture(scope="module")
def program(run):
    """What PyTorch exports: seconds of work, the same each time."""
    return onnx_export._export(load(f"local-dir:{run}"), (3, 32, 32), None)


@pytest.fixture(scope="module")
def exported(run, program):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "_export", lambda *args: program)
        return export_onnx(load(f"local-dir:{run}"), run.parent / "net.onnx")


def scores(file, images):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def test_every_batch_size_gives_the_networks_scores(run, exported):
    model = load(f"local-dir:{run}")
    for batch in (1, 3, 8):
        images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            np.testing.assert_allclose(scores(exported.path, images), model(images).numpy(), atol=1e-4)
    session = onnxruntime.InferenceSession(str(exported.path))
    assert (session.get_inputs()[0].name, session.get_outputs()[0].name) == ("images", "logits")
    assert session.get_inputs()[0].shape[1:] == [3, 32, 32]
    assert isinstance(session.get_inputs()[0].shape[0], str)


def test_metadata_tell_how_images_are_prepared(exported):
    metadata = {p.key: p.value for p in onnx.load(exported.path).metadata_props}
    assert metadata["architecture"] == "test_resnet_asap"
    assert json.loads(metadata["label_names"]) == LABELS
    assert json.loads(metadata["preprocessing"]) == {
        "layout": "NCHW",
        "input_size": [3, 32, 32],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "range": [0.0, 1.0],
        "mean": [0.2, 0.4, 0.6],
        "std": [0.3, 0.2, 0.1],
        "normalization": "before the graph: (pixels - mean) / std",
    }


def test_the_tolerance_is_stated(exported):
    assert exported.batches == (1, 2, 5)
    assert exported.difference <= exported.tolerance * exported.scale
    assert f"accepted up to {1e-4 * exported.scale:.1e}" in str(exported)
    assert f"opset {exported.opset}, dynamic batch" in str(exported)


def test_normalization_inside_by_the_command_line(run, tmp_path, capsys):
    file = tmp_path / "pixels.onnx"
    words = [str(run), "--onnx", str(file), "--include-normalization", "--opset", "18"]
    main(words)
    assert "opset 18" in capsys.readouterr().out
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(PIXELS[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = load(f"local-dir:{run}")((pixels - mean) / std).numpy()
    np.testing.assert_allclose(scores(file, pixels), expected, atol=1e-4)
    metadata = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert json.loads(metadata["preprocessing"])["normalization"] == "inside the graph"
    with pytest.raises(UserError, match="is there already: --overwrite replaces it"):
        main(words)
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_whose_scores_differ_is_not_put_in_place(run, program, tmp_path, monkeypatch):
    """The scores are those of other weights."""
    (tmp_path / "net.onnx").write_bytes(b"an older file")
    other = timm.create_model("test_resnet_asap", num_classes=3).eval()
    compare = onnx_export._compare
    monkeypatch.setattr(onnx_export, "_export", lambda *args: program)
    monkeypatch.setattr(onnx_export, "_compare", lambda network, *args: compare(other, *args))
    with pytest.raises(UserError, match=r"was not written: onnxruntime's scores differ by"):
        export_onnx(load(f"local-dir:{run}"), tmp_path / "net.onnx")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("net.onnx", b"an older file")]


def test_missing_packages_are_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'timm_asap\[onnx\]'"):
        export_onnx(load(f"local-dir:{run}"), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "--onnx", "{tmp}"], "is a folder: expected a file"),
        (["{tmp}/none", "--onnx", "{tmp}/x.onnx"], "there is no folder"),
        (["resnet5o", "--onnx", "{tmp}/x.onnx"], "unknown model 'resnet5o'"),
        (["{run}", "--onnx", "{tmp}/x.onnx", "--opset", "3"], "opset: expected 18 or more, got 3"),
        (["{run}"], "--onnx"),
    ],
)
def test_mistakes(run, tmp_path, words, message):
    with pytest.raises(UserError, match=message) as raised:
        main([word.format(run=run, tmp=tmp_path) for word in words])
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
