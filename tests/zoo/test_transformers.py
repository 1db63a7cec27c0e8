"""A published run in the real transformers library."""

import json

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import HfApi
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf

import timm_asap  # noqa: F401  registers the twins
from timm_asap.hub import load
from timm_asap.zoo.model_config import name_import

transformers = pytest.importorskip("transformers", reason="the dev extra installs it")

REPO = "you/net"
LABELS = ["boot", "bag", "coat"]


@pytest.fixture
def published(hub):
    """Lets a model into a public repository, with config.json as a run has it."""

    def put(folder, **kwargs):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet_asap", num_classes=3, asap_layout="paper", **kwargs).eval()
        channels = kwargs.get("in_chans", 3)
        pixels = {"input_size": (channels, 32, 32), "mean": (0.2,) * channels, "std": (0.3,) * channels}
        save_for_hf(model, folder, safe_serialization=True, data_config=pixels, model_config={"label_names": LABELS})
        config = json.loads((folder / "config.json").read_text())
        del config["model_args"]["num_classes"]
        name_import(config)
        assert config["requires"] == "import timm_asap"
        (folder / "config.json").write_text(json.dumps(config))
        api = HfApi(token=hub.write_token)
        api.create_repo(REPO)
        api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="Add")
        return model

    return put


def picture(mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def assert_same_scores(wrapped, model, inputs):
    # equal weights, and yet not bit for bit: transformers leaves them where they lie in the file, at addresses from
    # which the processor adds in another order
    with torch.no_grad():
        torch.testing.assert_close(wrapped(**inputs).logits, model(inputs["pixel_values"]), atol=1e-6, rtol=0)


def test_it_loads_as_a_classifier(published, tmp_path):
    model = published(tmp_path)
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(REPO).eval()
    assert wrapped.config.architecture == "test_resnet_asap"
    assert wrapped.config.id2label == dict(enumerate(LABELS))
    assert repr(wrapped.timm_model) == repr(model)  # which shows every layer's window, boundary and layout
    for key, value in model.state_dict().items():
        assert torch.equal(wrapped.timm_model.state_dict()[key], value), key
    processor = transformers.AutoImageProcessor.from_pretrained(REPO)
    inputs = processor(picture())
    transform = create_transform(**resolve_model_data_config(load(f"hf-hub:{REPO}")), is_training=False)
    assert torch.equal(inputs["pixel_values"][0], transform(picture()))
    assert_same_scores(wrapped, model, inputs)


def test_the_pipeline_names_the_class(published, tmp_path):
    model = published(tmp_path)
    classify = transformers.pipeline("image-classification", model=REPO, device="cpu")
    answers = classify(picture())
    transform = create_transform(**resolve_model_data_config(load(f"hf-hub:{REPO}")), is_training=False)
    with torch.no_grad():
        expected = model(transform(picture())[None]).softmax(-1)[0]
    assert {a["label"]: pytest.approx(a["score"], abs=1e-6) for a in answers} == dict(
        zip(LABELS, expected.tolist(), strict=True)
    )


def test_grey_models_take_grey_pictures(published, tmp_path):
    model = published(tmp_path, in_chans=1)
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(REPO).eval()
    inputs = transformers.AutoImageProcessor.from_pretrained(REPO)(picture("L"))
    assert inputs["pixel_values"].shape == (1, 1, 32, 32)
    assert_same_scores(wrapped, model, inputs)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_pipeline_takes_grey_networks(hub, tmp_path, mode):
    torch.manual_seed(0)
    model = timm.create_model("resnet20_lowres_asap", num_classes=3, in_chans=1).eval()
    pixels = {"input_size": (1, 32, 32), "mean": (0.2,), "std": (0.3,)}
    save_for_hf(model, tmp_path, safe_serialization=True, data_config=pixels, model_config={"label_names": LABELS})
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model_args"]["num_classes"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    api = HfApi(token=hub.write_token)
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=tmp_path, commit_message="Add")
    answers = transformers.pipeline("image-classification", model=REPO, device="cpu")(picture(mode))
    transform = create_transform(**resolve_model_data_config(load(f"hf-hub:{REPO}")), is_training=False)
    with torch.no_grad():
        expected = model(transform(picture("L"))[None]).softmax(-1)[0]
    # Pillow rounds gray to whole levels, the network does not
    assert {a["label"]: pytest.approx(a["score"], abs=1e-3) for a in answers} == dict(
        zip(LABELS, expected.tolist(), strict=True)
    )
