"""`load`: one name, from the Hub, a folder or timm's tags; checked once, and offline afterwards."""

import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import HfApi, constants, scan_cache_dir
from safetensors.torch import save
from timm.models import save_for_hf

import timm_asap  # noqa: F401  registers the twins
from timm_asap.errors import UserError
from timm_asap.hub import load
from timm_asap.hub.checks import sample_logits
from timm_asap.zoo import create, hub_files

REPO = "you/net"
NAME = f"hf-hub:{REPO}"


def make_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return timm.create_model("test_resnet_asap", num_classes=5, asap_window="hamming", **kwargs).eval()


@pytest.fixture
def serve(hub, tmp_path):
    """Puts a model into a public repository of the Hub as timm saves it."""

    def put(model, repo=REPO, token=hub.write_token):
        folder = tmp_path / "saved"
        save_for_hf(model, folder, safe_serialization=True)
        api = HfApi(token=token)
        api.create_repo(repo, exist_ok=True)
        return api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Add").oid

    return put


@pytest.fixture
def model(serve):
    model = make_model()
    serve(model)
    return model


@pytest.fixture
def hashed(monkeypatch):
    """The files whose digest was computed."""
    files = []
    digest_like = hub_files.digest_like
    monkeypatch.setattr(
        hub_files, "digest_like", lambda path, stated: (files.append(stated), digest_like(path, stated))[1]
    )
    return files


def assert_same(loaded, model):
    assert not loaded.training
    assert repr(loaded) == repr(model)
    assert torch.equal(sample_logits(loaded), sample_logits(model))


def test_from_the_hub_as_timm_does(model):
    assert_same(load(NAME), model)
    assert_same(timm.create_model(NAME, pretrained=True).eval(), model)


def test_keywords_are_timms(model):
    assert load(NAME, num_classes=3).num_classes == 3
    assert load(NAME, in_chans=1).conv1[0].in_channels == 1
    assert len(load(NAME, features_only=True)(torch.zeros(1, 3, 64, 64))) == 5


def test_revisions(hub, serve, model):
    HfApi(token=hub.write_token).create_tag(REPO, tag="v1")
    newer = make_model(seed=1)
    commit = serve(newer)
    assert_same(load(NAME), newer)
    assert_same(load(f"{NAME}@v1"), model)
    assert_same(timm.create_model(f"{NAME}@v1", pretrained=True).eval(), model)
    loaded = load(f"{NAME}@{commit}")
    assert_same(loaded, newer)
    assert loaded.pretrained_cfg["hf_hub_id"] == f"{REPO}@{commit}"


def test_weights_are_those_of_the_configurations_commit(hub, serve, model, monkeypatch):
    """Somebody pushes between the download of config.json and that of the weights."""
    fetch, pushed = create.fetch, []

    def fetch_then_push(repo, revision, file, cache_dir):
        path = fetch(repo, revision, file, cache_dir)
        if not pushed:
            pushed.append(serve(make_model(seed=1)))
        return path

    monkeypatch.setattr(create, "fetch", fetch_then_push)
    assert_same(load(NAME), model)


def test_a_file_is_hashed_once(hub, model, hashed):
    load(NAME)
    assert len(hashed) == 2
    load(NAME)
    assert len(hashed) == 2
    (repo,) = scan_cache_dir(constants.HF_HUB_CACHE).repos  # the notes do not disturb the client
    weights = next(f for r in repo.revisions for f in r.files if f.file_name == "model.safetensors")
    weights.blob_path.touch()
    load(NAME)
    assert len(hashed) == 3
    assert hashed[2] == weights.blob_path.name


def test_a_file_that_was_damaged_later_is_noticed(hub, model):
    load(NAME)
    (repo,) = scan_cache_dir(constants.HF_HUB_CACHE).repos
    weights = next(f for r in repo.revisions for f in r.files if f.file_name == "model.safetensors")
    content = weights.blob_path.read_bytes()
    weights.blob_path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="is not the file that the Hub states"):
        load(NAME)


def test_a_cache_without_symbolic_links(hub, model, hashed, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda cache_dir=None: False)
    assert_same(load(NAME), model)
    assert len(hashed) == 2
    assert_same(load(NAME), model)
    assert len(hashed) == 2
    (path,) = Path(constants.HF_HUB_CACHE).rglob("model.safetensors")
    assert not path.is_symlink()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=f"delete {path} and load again"):
        load(NAME)


def test_offline(hub, model, monkeypatch):
    load(NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert_same(load(NAME), model)
    with pytest.raises(UserError, match="you/other is not in the cache of downloads, and HF_HUB_OFFLINE forbids"):
        load("hf-hub:you/other")
    with pytest.raises(UserError, match="you/net@v9 is not in the cache"):
        load(f"{NAME}@v9")
    assert len(hub.requests) == asked


def test_a_cache_of_its_own(hub, model, tmp_path):
    load(NAME, cache_dir=tmp_path / "mine")
    assert any((tmp_path / "mine").rglob("model.safetensors"))
    assert not any((tmp_path / "hub_cache").rglob("model.safetensors"))


def test_a_cache_that_may_only_be_read(hub, model, monkeypatch, hashed):
    load(NAME)
    hashed.clear()
    (repo,) = scan_cache_dir(constants.HF_HUB_CACHE).repos
    notes = repo.repo_path / "timm_asap_checked"
    for note in notes.iterdir():
        note.unlink()
    notes.rmdir()
    notes.write_text("")  # where no folder can be made
    assert_same(load(NAME), model)
    assert len(hashed) == 2


def test_from_a_folder(tmp_path):
    model = make_model()
    save_for_hf(model, tmp_path, safe_serialization=True)
    assert_same(load(f"local-dir:{tmp_path}"), model)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(f"local-dir:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        load(f"local-dir:{tmp_path}")
    with pytest.raises(UserError, match="no such folder"):
        load(f"local-dir:{tmp_path}/none")


def test_an_architecture_with_upstreams_weights(hub, hashed):
    state = timm.create_model("test_resnet").state_dict()
    config = {"architecture": "test_resnet", "num_classes": 1000}
    hub.add_repo("timm/test_resnet.r160_in1k", {"model.safetensors": save(state), "config.json": json.dumps(config)})
    model = load("test_resnet_asap.r160_in1k", asap_layout="paper")
    assert torch.equal(model.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    assert len(hashed) == 1
    hub.fail("HEAD", "model.safetensors", status=404)
    assert_same(load("test_resnet_asap", asap_layout="paper"), model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5o", "unknown model 'resnet5o': closest matches"),
        ("resnet50_asap.nothing", "unknown tag of resnet50_asap 'nothing'"),
        ("resnet20_lowres.untrained", "has no pretrained weights"),
        ("you/net", "expected hf-hub:user/name, local-dir:FOLDER or architecture.tag"),
        ("https://x/y", "expected hf-hub:user/name"),
        ("hf-hub:you/has space", "expected user/name"),
        ("hf-hub:you/net@", "expected a branch, a tag or a commit after the @"),
        ("hf-hub:you/none", "no public repository you/none"),
    ],
)
def test_names_that_lead_nowhere(hub, name, message):
    with pytest.raises(UserError, match=message) as raised:
        load(name)
    assert "\n" not in str(raised.value)


def test_what_a_repository_lacks(hub, model):
    with pytest.raises(UserError, match="you/net has no revision 'v9'"):
        load(f"{NAME}@v9")
    with pytest.raises(UserError, match=r"cannot be loaded: .*unexpected keyword argument 'nonsense'"):
        load(NAME, nonsense=1)
    hub.add_repo("you/text", {"a.txt": "a"})
    with pytest.raises(UserError, match=r"you/text has no config\.json: expected a model of timm"):
        load("hf-hub:you/text")


def test_without_a_connection(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"cannot reach http://127\.0\.0\.1:9, and you/net is not in the cache"):
        load(NAME)
