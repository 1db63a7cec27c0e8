"""Twins take the plain networks' pretrained weights from the Hub, and go there and back themselves.

The Hub is the local one; it serves stand-ins for upstream's repositories: the state of a randomly initialized network.
"""

import json

import pytest
import timm
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from safetensors.torch import load, save
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, push_to_hf_hub, save_for_hf

import timm_asap
from timm_asap.conversion.strided import AsapLayer

SMALL = ["test_resnet", "test_convnext"]
OPTIONS = {"asap_window": "hamming", "asap_layout": "paper", "asap_stem": False}


def random_state(name, seed=0):
    """A state in which nothing is zero or one by default, so that everything that is not loaded shows."""
    model = timm.create_model(name)
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = torch.rand(value.shape, generator=generator) * 0.1 + 0.01
    return state


@pytest.fixture
def upstream(hub):
    """Lets the Hub serve a stand-in for upstream's repository of a name with its tag; returns the state in it."""

    def serve(name, state=None):
        state = random_state(name.partition(".")[0]) if state is None else state
        cfg = get_pretrained_cfg(name)
        config = {"architecture": cfg.architecture, "num_classes": cfg.num_classes, "pretrained_cfg": {"tag": cfg.tag}}
        hub.add_repo(cfg.hf_hub_id, {"model.safetensors": save(state), "config.json": json.dumps(config)})
        return state

    return serve


def default_name(architecture):
    return next(iter(get_arch_pretrained_cfgs(architecture)))


def assert_same_state(state, wanted):
    assert state.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(state[key], value), key


def asap_layers(model):
    return [module for module in model.modules() if isinstance(module, AsapLayer)]


def logits(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        outputs = model.eval()(torch.rand(2, model.in_chans, 64, 64, generator=generator))
    assert outputs.isfinite().all()
    return outputs


# upstream's weights


@pytest.mark.parametrize("architecture", SMALL)
def test_a_twin_downloads_and_holds_upstreams_weights(hub, upstream, architecture):
    name = default_name(architecture)
    state = upstream(name)
    twin = timm.create_model(f"{architecture}_asap", pretrained=True)
    assert_same_state(twin.state_dict(), state)
    assert asap_layers(twin)
    files = [path for method, path, _ in hub.requests if method == "GET"]
    assert files == [f"/timm/{name}/resolve/main/model.safetensors"]

    plain = timm.create_model(architecture, pretrained=True)
    assert not torch.equal(logits(twin), logits(plain))
    timm_asap.convert(plain)
    assert torch.equal(logits(twin), logits(plain))


def test_the_default_tag_and_others(upstream):
    tags = ("a1_in1k", "tv_in1k")
    states = {tag: upstream(f"resnet18.{tag}", random_state("resnet18", seed)) for seed, tag in enumerate(tags)}
    for name, tag in (("resnet18_asap", "a1_in1k"), ("resnet18_asap.tv_in1k", "tv_in1k")):
        twin = timm.create_model(name, pretrained=True)
        assert_same_state(twin.state_dict(), states[tag])
        cfg = twin.pretrained_cfg
        assert (cfg["architecture"], cfg["tag"]) == ("resnet18_asap", tag)
        assert cfg["hf_hub_id"] == f"timm/resnet18.{tag}"
        assert cfg["license"] == get_pretrained_cfg(f"resnet18.{tag}").license
        assert twin.default_cfg["architecture"] == "resnet18_asap"


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 10},
        {"num_classes": 0},
        {"in_chans": 1},
        {"in_chans": 5, "num_classes": 3},
        {"global_pool": "max"},
        {"drop_path_rate": 0.1},
        {"features_only": True},
        {"features_only": True, "out_indices": (1, 2), "in_chans": 1},
    ],
    ids=str,
)
def test_weights_adapt_as_the_plain_models_do(upstream, architecture, options):
    upstream(default_name(architecture))
    models = []
    for name in (architecture, f"{architecture}_asap"):
        torch.manual_seed(0)  # a new head is random
        models.append(timm.create_model(name, pretrained=True, **options))
    plain, twin = models
    assert_same_state(twin.state_dict(), plain.state_dict())
    assert asap_layers(twin)
    if "features_only" in options:
        assert twin.feature_info.get_dicts() == plain.feature_info.get_dicts()


def test_options_change_the_layers_and_not_the_weights(upstream):
    state = upstream(default_name("test_resnet"))
    twin = timm.create_model("test_resnet_asap", pretrained=True, **OPTIONS)
    assert_same_state(twin.state_dict(), state)
    assert {layer.asap.window for layer in asap_layers(twin)} == {"hamming"}


def test_headless_fcmae_weights(upstream):
    """Upstream's file has neither classifier nor final norm: timm loads it loosely, and so do twins."""
    state = random_state("convnextv2_atto")
    served = upstream("convnextv2_atto.fcmae", {k: v for k, v in state.items() if not k.startswith("head.")})
    twin = timm.create_model("convnextv2_atto_asap.fcmae", pretrained=True)
    own = twin.state_dict()
    assert_same_state({key: own[key] for key in served}, served)
    assert own.keys() - served.keys() == {"head.norm.weight", "head.norm.bias"}
    assert (twin.pretrained_cfg["tag"], twin.num_classes) == ("fcmae", 0)


@pytest.mark.parametrize("damage", ["missing", "unexpected"])
def test_a_file_with_other_keys_is_refused(upstream, damage):
    state = random_state("test_resnet")
    if damage == "missing":
        del state["bn1.running_mean"]
    else:
        state["extra.weight"] = torch.zeros(1)
    upstream(default_name("test_resnet"), state)
    with pytest.raises(RuntimeError, match=damage.capitalize()):
        timm.create_model("test_resnet_asap", pretrained=True)


def test_without_upstreams_repository_nothing_is_random_in_silence(hub):
    with pytest.raises(RepositoryNotFoundError, match=r"timm/test_resnet\.r160_in1k"):
        timm.create_model("test_resnet_asap", pretrained=True)


def test_what_was_downloaded_loads_offline(hub, upstream, monkeypatch):
    state = upstream(default_name("test_resnet"))
    timm.create_model("test_resnet", pretrained=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert_same_state(timm.create_model("test_resnet_asap", pretrained=True).state_dict(), state)
    assert len(hub.requests) == asked


def test_tags_are_listed_as_the_plain_models_are():
    for pattern in ("resnet50", "convnextv2_atto"):
        plain = set(timm.list_pretrained(f"{pattern}.*"))
        listed = timm.list_pretrained(f"{pattern}_asap*")
        assert {name.replace("_asap.", ".") for name in listed} == plain
        assert len(plain) > 1
    assert "resnet50_asap.a1_in1k" in timm.list_pretrained("resnet50_asap*")


# a twin's own weights


@pytest.fixture
def twin(upstream):
    """A twin that has gone a way: upstream's weights, another head, other options."""
    upstream(default_name("test_resnet"))
    return timm.create_model("test_resnet_asap", pretrained=True, num_classes=7, in_chans=1, **OPTIONS)


def assert_same_twin(loaded, twin):
    assert_same_state(loaded.state_dict(), twin.state_dict())
    assert repr(loaded) == repr(twin)  # which shows every layer's window, boundary and layout
    assert torch.equal(logits(loaded), logits(twin))
    assert loaded.pretrained_cfg["architecture"] == "test_resnet_asap"


def test_saving_and_loading_a_folder(twin, tmp_path):
    save_for_hf(twin, tmp_path, safe_serialization=True)
    assert_same_twin(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), twin)


def test_pushing_and_loading_from_the_hub(hub, twin, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    push_to_hf_hub(twin, "you/twin", private=True, safe_serialization=True)
    files = hub.repo("you/twin").head.files
    assert files.keys() == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    config = json.loads(files["config.json"].content)
    assert config["architecture"] == "test_resnet_asap"
    kept = {key: value for key, value in config["model_args"].items() if key.startswith("asap_")}
    assert kept == {**OPTIONS, "asap_boundary": "circular"}  # a default is kept too, should it ever change
    assert_same_state(load(files["model.safetensors"].content), twin.state_dict())

    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepositoryNotFoundError):
        timm.create_model("hf-hub:you/twin", pretrained=True)
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    loaded = timm.create_model("hf-hub:you/twin", pretrained=True)
    assert_same_twin(loaded, twin)
    push_to_hf_hub(loaded, "you/again", safe_serialization=True)
    assert_same_twin(timm.create_model("hf-hub:you/again", pretrained=True), twin)


def test_revisions_of_a_pushed_twin(hub, twin, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    push_to_hf_hub(twin, "you/twin", safe_serialization=True)
    HfApi().create_tag("you/twin", tag="v1")
    first = {key: value.clone() for key, value in twin.state_dict().items()}
    with torch.no_grad():
        next(twin.parameters()).zero_()
    push_to_hf_hub(twin, "you/twin", safe_serialization=True)
    assert_same_state(timm.create_model("hf-hub:you/twin", pretrained=True).state_dict(), twin.state_dict())
    assert_same_state(timm.create_model("hf-hub:you/twin@v1", pretrained=True).state_dict(), first)


def test_pushing_without_the_right_to(hub, twin, monkeypatch):
    hub.add_repo("you/twin")
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    with pytest.raises(HfHubHTTPError, match="403"):
        push_to_hf_hub(twin, "you/twin", safe_serialization=True)
    assert hub.repo("you/twin").head.files.keys() == {".gitattributes"}
