"""The local Hub behaves as the real one towards the real client, and breaks on demand."""

import base64
import hashlib
import io
import json
from pathlib import Path

import datasets
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.sha import git_hash
from PIL import Image

from timm_asap.data import load_dataset
from timm_asap.errors import UserError

REPO = "you/net"
WEIGHTS = bytes(range(256)) * 400
CARD = "---\nlicense: mit\ntags:\n- timm\n---\n# A net\n"


@pytest.fixture
def api(hub):
    return HfApi(token=hub.write_token)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    (path / "plots").mkdir(parents=True)
    (path / "README.md").write_text(CARD)
    (path / "config.json").write_text('{"architecture": "net"}')
    (path / "model.safetensors").write_bytes(WEIGHTS)
    (path / "plots" / "curve.png").write_bytes(b"\x89PNG\0 curve")
    return path


@pytest.fixture
def published(api, folder):
    api.create_repo(REPO)
    return api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="Publish")


def add(path, content):
    return CommitOperationAdd(path, content if isinstance(content, bytes) else content.encode())


def commit(api, *operations, **options):
    return api.create_commit(REPO, operations, commit_message="Change", **options)


# a round trip, and what can be asked about it


def test_a_folder_comes_back_as_it_was_sent(hub, api, folder, published):
    assert published.repo_url.repo_id == REPO
    assert api.model_info(REPO).sha == published.oid
    files = {"README.md", "config.json", "model.safetensors", "plots/curve.png"}
    assert set(api.list_repo_files(REPO)) == files | {".gitattributes"}
    downloaded = Path(snapshot_download(REPO))
    for name in files:
        assert (downloaded / name).read_bytes() == (folder / name).read_bytes()
    assert ModelCard.load(REPO).data.license == "mit"
    assert hub.asked("PUT", "/lfs-store/") == 2  # the weights by name, the picture by content


def test_an_unchanged_folder_makes_no_commit(hub, api, folder, published):
    again = api.upload_folder(repo_id=REPO, folder_path=folder)
    assert again.oid == published.oid
    assert hub.asked("POST", "/commit/") == 1
    (folder / "config.json").write_text("{}")
    changed = api.upload_folder(repo_id=REPO, folder_path=folder)
    assert [c.commit_id for c in api.list_repo_commits(REPO)][:2] == [changed.oid, published.oid]
    assert hub.asked("PUT", "/lfs-store/") == 2


def test_listings_tell_size_and_sha256(api, folder, published):
    by_path = {item.path: item for item in api.list_repo_tree(REPO, recursive=True)}
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert by_path["model.safetensors"].lfs.sha256 == sha256
    assert by_path["model.safetensors"].size == len(WEIGHTS)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(WEIGHTS)}\n"
    assert by_path["model.safetensors"].blob_id == git_hash(pointer.encode())
    assert by_path["config.json"].lfs is None
    assert {item.path for item in api.list_repo_tree(REPO)} == set(by_path) - {"plots/curve.png"}
    assert [item.path for item in api.list_repo_tree(REPO, "plots")] == ["plots/curve.png"]
    info = api.get_paths_info(REPO, ["config.json", "plots", "none"])
    assert [item.path for item in info] == ["config.json", "plots"]
    siblings = {s.rfilename: s for s in api.model_info(REPO, files_metadata=True).siblings}
    assert siblings["model.safetensors"].lfs.sha256 == sha256
    assert siblings["config.json"].blob_id == by_path["config.json"].blob_id
    verified = api.verify_repo_checksums(REPO, local_dir=folder)
    assert (verified.checked_count, verified.mismatches, verified.missing_paths) == (4, [], [".gitattributes"])


def test_long_listings_come_in_pages(hub, api):
    hub.add_repo(REPO, {f"{n:02}.txt": "x" for n in range(25)})
    hub.page_size = 10
    assert len(api.list_repo_files(REPO)) == 26
    assert hub.asked("GET", "/tree/") == 3


def test_file_metadata_and_parts_of_a_file(hub, api, published):
    url = f"{hub.url}/{REPO}/resolve/main/model.safetensors"
    metadata = get_hf_file_metadata(url)
    assert (metadata.etag, metadata.size) == (hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
    assert metadata.commit_hash == published.oid
    for wanted, part in (("5-9", WEIGHTS[5:10]), ("102390-", WEIGHTS[102390:]), ("-4", WEIGHTS[-4:])):
        response = get_session().get(url, headers={"Range": f"bytes={wanted}"})
        assert (response.status_code, response.content) == (206, part)
    assert get_session().get(url, headers={"Range": "bytes=200000-"}).status_code == 416


def test_large_files_come_in_parts(hub, api):
    hub.part_size = 30_000
    api.create_repo(REPO)
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="model.safetensors", repo_id=REPO)
    assert hub.repo(REPO).head.files["model.safetensors"].content == WEIGHTS
    assert [path[-2:] for method, path, _ in hub.requests if method == "PUT"] == ["/1", "/2", "/3", "/4"]


def test_branches_tags_and_pull_requests(api, folder, published):
    api.create_tag(REPO, tag="v1/final")
    api.create_branch(REPO, branch="next", revision="v1/final")
    commit(api, add("config.json", "{}"), revision="next")
    proposed = commit(api, add("new.txt", "new"), create_pr=True)
    assert (proposed.pr_num, proposed.pr_revision) == (1, "refs/pr/1")

    def content(revision):
        return Path(hf_hub_download(REPO, "config.json", revision=revision)).read_text()

    assert content("v1/final") == content("main") == content(published.oid) == content("refs/pr/1")
    assert content("next") == "{}"
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert {b.name for b in refs.branches} == {"main", "next"}
    assert [t.target_commit for t in refs.tags] == [published.oid]
    assert len(refs.pull_requests) == 1
    for create in (lambda: api.create_tag(REPO, tag="v1/final"), lambda: api.create_branch(REPO, branch="next")):
        with pytest.raises(HfHubHTTPError, match="409"):
            create()
    api.delete_tag(REPO, tag="v1/final")
    api.delete_branch(REPO, branch="next")
    for revision in ("v1/final", "next"):
        with pytest.raises(RevisionNotFoundError):
            content(revision)


def test_deleting(api, published):
    commit(api, CommitOperationDelete("config.json"), CommitOperationDelete("plots/"))
    assert set(api.list_repo_files(REPO)) == {".gitattributes", "README.md", "model.safetensors"}
    with pytest.raises(RemoteEntryNotFoundError):
        commit(api, CommitOperationDelete("config.json"))
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)


def test_what_is_not_there(api, published):
    assert not api.file_exists(REPO, "pytorch_model.bin")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(REPO, "pytorch_model.bin")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "config.json", revision="none")
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "none"))
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("you/none")
    with pytest.raises(RepositoryNotFoundError, match="401"):
        hf_hub_download("nobody/nothing", "config.json")


def test_existing_repositories(hub, api):
    api.create_repo(REPO)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    api.create_repo(REPO, repo_type="dataset")
    assert [m.id for m in api.list_models(author="you", search="NET")] == [REPO]
    assert [m.id for m in api.list_models(author="guest")] == []


def test_data_sets_and_spaces_have_their_own_paths(hub, api):
    for kind in ("dataset", "space"):
        api.create_repo(REPO, repo_type=kind, space_sdk="static" if kind == "space" else None)
        made = api.upload_file(
            path_or_fileobj=kind.encode(), path_in_repo="a/b.bin", repo_id=REPO, repo_type=kind, commit_message="Add"
        )
        assert made.repo_url.repo_type == kind
        assert Path(hf_hub_download(REPO, "a/b.bin", repo_type=kind)).read_text() == kind
        assert api.repo_info(REPO, repo_type=kind).sha == made.oid
    assert not api.repo_exists(REPO)


def test_a_data_set_loads_from_it(hub):
    rows = datasets.Dataset.from_dict({"image": [Image.new("L", (32, 32), n) for n in range(20)], "label": [0, 1] * 10})
    buffer = io.BytesIO()
    rows.cast_column("image", datasets.Image()).to_parquet(buffer)
    hub.add_repo("you/pets", {"data/train-00000-of-00001.parquet": buffer.getvalue()}, kind="datasets")
    data = load_dataset("you/pets")
    assert (len(data.train) + len(data.test), data.num_classes) == (20, 2)
    with pytest.raises(UserError, match="Dataset 'nobody/nothing' doesn't exist on the Hub or cannot be accessed"):
        load_dataset("nobody/nothing")


# who may do what


def test_tokens(hub):
    assert HfApi(token=hub.write_token).whoami()["name"] == "you"
    assert HfApi(token=hub.read_token).whoami()["auth"]["accessToken"]["role"] == "read"
    assert get_session().get(f"{hub.url}/api/whoami-v2").status_code == 401
    for call in ("whoami", "list_models"):
        with pytest.raises(HfHubHTTPError, match="Invalid"):
            list(getattr(HfApi(token="hf_wrong"), call)())


def test_the_environments_token_is_read_at_each_call(hub, monkeypatch):
    hub.add_repo(REPO, {"config.json": "{}"}, private=True)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download(REPO, "config.json")
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    assert Path(hf_hub_download(REPO, "config.json")).read_text() == "{}"


@pytest.mark.parametrize("token", ["read_token", "guest_token"])
def test_without_the_right_to_write(hub, api, token):
    api.create_repo(REPO)
    other = HfApi(token=getattr(hub, token))
    before = hub.repo(REPO).head
    assert other.create_repo(REPO, exist_ok=True).repo_id == REPO
    for change in (
        lambda: commit(other, add("a.txt", "a")),
        lambda: other.create_tag(REPO, tag="v1"),
        lambda: other.delete_repo(REPO),
        lambda: other.create_repo("you/other"),
    ):
        with pytest.raises(HfHubHTTPError, match="403"):
            change()
    assert hub.repo(REPO).head is before


def test_private_and_gated_repositories(hub, api):
    api.create_repo(REPO, private=True)
    commit(api, add("config.json", "{}"))
    guest, anonymous = HfApi(token=hub.guest_token), HfApi(token=False)
    for stranger, status in ((guest, "404"), (anonymous, "401")):
        with pytest.raises(RepositoryNotFoundError, match=status):
            stranger.model_info(REPO)
    api.update_repo_settings(REPO, visibility="public", gated="manual")
    for stranger, status in ((guest, "403"), (anonymous, "401")):
        assert stranger.model_info(REPO).gated == "manual"
        with pytest.raises(GatedRepoError, match=status):
            stranger.hf_hub_download(REPO, "config.json")
    hub.repo(REPO).readers.add("guest")
    assert guest.hf_hub_download(REPO, "config.json")


# commits that are refused


def test_of_two_publishers_with_one_parent_the_second_is_refused(api, published):
    first = commit(api, add("a.txt", "a"), parent_commit=published.oid)
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, add("b.txt", "b"), parent_commit=published.oid)
    assert api.model_info(REPO).sha == first.oid


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("tags: [a\n", "YAML Metadata Error"),
        ("x: !!python/object:numpy.float64 {}\n", "YAML Metadata Error"),
        ("license: 7\n", '"license" must be a string'),
        ("model-index:\n- name: net\n  results:\n  - task: {type: t}\n", "dataset.type.* is required"),
    ],
)
def test_cards_with_bad_metadata(api, metadata, message):
    api.create_repo(REPO)
    with pytest.raises(ValueError, match=message):
        commit(api, add("README.md", f"---\n{metadata}---\n"))
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        commit(api, add("README.md", "# No metadata"))


def test_requests_that_the_client_would_not_send(hub, api, published):
    url = f"{hub.url}/api/models/{REPO}/commit"

    def post(revision, key, **value):
        lines = [{"key": "header", "value": {"summary": "Change"}}, {"key": key, "value": value}]
        content = "\n".join(map(json.dumps, lines))
        headers = {"Authorization": f"Bearer {hub.write_token}"}
        return get_session().post(f"{url}/{revision}", content=content, headers=headers).status_code

    api.create_tag(REPO, tag="v1")
    assert get_session().put(f"{hub.url}/lfs-store/{'0' * 64}", content=b"not that").status_code == 400
    assert post("main", "lfsFile", path="a.bin", algo="sha256", oid="0" * 64, size=1) == 400
    bad_card = base64.b64encode(b"---\nlicense: 7\n---\n").decode()
    assert post("main", "file", path="README.md", content=bad_card, encoding="base64") == 400
    assert post("v1", "file", path="a.txt", content="", encoding="base64") == 400
    assert api.model_info(REPO).sha == published.oid
    assert get_session().get(f"{hub.url}/api/nothing").status_code == 404


# the tests' own rules


def test_nothing_outlives_a_test(hub):
    assert hub.repositories == {}
    assert hub.requests == []


def test_without_the_hub_there_is_no_network():
    with pytest.raises(Exception, match=r"offline mode|outgoing traffic has been disabled|HF_HUB_OFFLINE"):
        HfApi().model_info("timm/resnet18.a1_in1k")
