"""Publishing a run to the Hub: what is sent, what is left alone, and that it comes back as it went."""

import json
import re

import pytest
import timm
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load, save

from tests.support.publishable_run import publishable_run, write_evaluation
from timm_asap.commands.publish import main
from timm_asap.errors import UserError
from timm_asap.hub import publish
from timm_asap.hub.checks import sample_logits
from timm_asap.hub.publishing import verify

REPO = "you/test_resnet_asap.idx"
SENT = {
    *("README.md", "config.json", "config.yaml", "evaluation.json", "metrics.jsonl", "model.safetensors"),
    *("plots/accuracy.png", "result.json", "run.json"),
}


@pytest.fixture
def run(tmp_path):
    return publishable_run(tmp_path)


@pytest.fixture
def you(hub, monkeypatch):
    """The Hub, with a user signed in who may write."""
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    return hub


def commits(hub, repo=REPO):
    return [commit.title for commit in hub.repo(repo).head.history()]


def test_one_private_commit_that_loads_as_a_timm_model(you, run):
    done = publish(run, REPO)
    repository = you.repo(REPO)
    assert repository.private
    assert done.private
    assert commits(you) == ["Publish run with timm_asap 0.1.0", "initial commit"]
    assert done.commit == repository.head.oid
    assert set(done.difference.added) == SENT
    assert repository.head.files.keys() == SENT | {".gitattributes"}
    published = timm.create_model(f"hf-hub:{REPO}", pretrained=True)
    local = timm.create_model(f"local-dir:{run}", pretrained=True)
    assert repr(published) == repr(local)
    assert torch.equal(sample_logits(published), sample_logits(local))
    files = {name: file.content for name, file in repository.head.files.items()}
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert "num_classes" not in json.loads(files["config.json"])["model_args"]
    assert ModelCard(files["README.md"].decode()).data.library_name == "timm"


def test_the_commit_names_its_parent(you, run, monkeypatch):
    seen = []
    create_commit = HfApi.create_commit

    def spy(self, *args, **kwargs):
        seen.append(kwargs["parent_commit"])
        return create_commit(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", spy)
    publish(run, REPO)
    assert seen == [you.repo(REPO).head.parent.oid]


def test_checkpoints_and_folders_of_this_machine_stay_here(you, run):
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "last.safetensors").write_bytes(b"state")
    (run / "evaluation.safetensors").write_bytes(b"which image was right")
    publish(run, REPO)
    files = you.repo(REPO).head.files
    assert files.keys() == SENT | {".gitattributes"}
    recipe = yaml.safe_load(files["config.yaml"].content)
    assert recipe["data_dir"] == "idx"
    assert "output" not in recipe
    for name, file in files.items():
        assert str(run.parent).encode() not in file.content, name


def test_a_long_metrics_file_stays_here(you, run, monkeypatch):
    monkeypatch.setattr("timm_asap.hub.bundle._METRICS_LIMIT", 10)
    publish(run, REPO)
    assert "metrics.jsonl" not in you.repo(REPO).head.files


def test_publishing_again_changes_nothing(you, run):
    first = publish(run, REPO)
    again = publish(run, REPO)
    assert again.commit == first.commit
    assert set(again.difference.unchanged) == SENT
    assert not again.difference.to_send
    assert len(commits(you)) == 2
    assert you.asked("POST", "/commit/") == 1


def test_only_what_changed_is_sent_and_the_owners_files_stay(you, run):
    you.add_repo(REPO, {"NOTES.md": "mine", "config.yaml": "old: 1\n"})
    done = publish(run, REPO, overwrite_files=True)
    assert done.difference.changed == ("config.yaml",)
    assert done.difference.kept == (".gitattributes", "NOTES.md")
    assert you.repo(REPO).head.files["NOTES.md"].content == b"mine"
    (run / "plots" / "accuracy.png").write_bytes(b"\x89PNG\0 another")
    assert publish(run, REPO).difference.to_send == ("README.md", "plots/accuracy.png")  # the card's stamp names it


def test_a_gitignore_of_the_repository_leaves_nothing_out(you, run):
    you.add_repo(REPO, {".gitignore": "*.png\nREADME.md\n"})
    done = publish(run, REPO)
    assert you.repo(REPO).head.files.keys() == SENT | {".gitattributes", ".gitignore"}
    assert done.difference.kept == (".gitattributes", ".gitignore")


def test_a_repository_stays_as_visible_as_it_is(you, run, capsys):
    you.add_repo(REPO)
    main([str(run), "--repo", REPO])
    assert not you.repo(REPO).private
    out = capsys.readouterr().out
    assert "published (public)" in out
    assert "was public before and stays so" in out


def test_public_when_asked(you, run, capsys):
    main([str(run), "--repo", REPO, "--public"])
    assert not you.repo(REPO).private
    out = capsys.readouterr().out
    assert "before" not in out
    assert f'timm_asap.load("hf-hub:{REPO}")' in out
    assert "added     model.safetensors" in out


def test_a_name_without_namespace_is_the_users_own(you, run):
    assert publish(run, "net").repo == "you/net"
    assert publish(run, "net", dry_run=True).repo == "you/net"


def test_a_revision_is_made_from_main(you, run):
    publish(run, REPO)
    done = publish(run, REPO, revision="v2")
    assert not done.difference.to_send  # the branch starts with what main holds
    (run / "plots" / "accuracy.png").write_bytes(b"\x89PNG\0 another")
    done = publish(run, REPO, revision="v2", message="Another picture")
    assert done.load_line.endswith(f'"hf-hub:{REPO}@v2")')
    refs = you.repo(REPO).refs
    assert refs["refs/heads/v2"].title == "Another picture"
    assert refs["refs/heads/main"].oid != refs["refs/heads/v2"].oid


def test_a_tag_or_a_commit_cannot_be_moved(you, run):
    done = publish(run, REPO)
    HfApi().create_tag(REPO, tag="v1")
    for revision in ("v1", done.commit):
        with pytest.raises(UserError, match=f"'{revision}' of {REPO} is a tag or a commit: expected a branch"):
            publish(run, REPO, revision=revision)


def test_a_pull_request_is_made_once(you, run):
    you.add_repo(REPO)
    done = publish(run, REPO, create_pr=True)
    assert (done.revision, done.url) == ("refs/pr/1", f"{you.url}/{REPO}/discussions/1")
    assert you.repo(REPO).head.files.keys() == {".gitattributes"}
    assert publish(run, REPO, create_pr=True).revision == "refs/pr/1"
    you.repo(REPO).closed.add(1)
    assert publish(run, REPO, create_pr=True).revision == "refs/pr/2"
    assert publish(run, REPO, revision="refs/pr/2").commit == you.repo(REPO).refs["refs/pr/2"].oid


# the dry run


def test_a_dry_run_sends_nothing_and_shows_the_difference(you, run, capsys):
    you.add_repo(REPO, {"config.yaml": "old: 1\n", "NOTES.md": "mine"})
    main([str(run), "--repo", REPO, "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert "changed   config.yaml" in lines
    assert "added     model.safetensors" in lines
    assert "kept      NOTES.md" in lines
    assert lines[-1].startswith("nothing was sent")
    assert {p.relative_to(run / "publish").as_posix() for p in (run / "publish").rglob("*") if p.is_file()} == SENT
    assert all(method in ("GET", "HEAD") for method, _, _ in you.requests)
    sent = publish(run, REPO, overwrite_files=True)
    for name in SENT:
        assert (run / "publish" / name).read_bytes() == you.repo(REPO).head.files[name].content
    main([str(run), "--repo", REPO, "--dry-run"])
    assert "unchanged model.safetensors" in capsys.readouterr().out
    assert you.repo(REPO).head.oid == sent.commit


def test_a_dry_run_needs_neither_token_nor_repository(hub, run):
    done = publish(run, REPO, dry_run=True)
    assert set(done.difference.added) == SENT
    assert done.commit is None
    assert hub.repositories == {}


# what comes back


def test_the_scores_of_the_download_are_compared(you, run):
    from timm_asap.hub.bundle import make_bundle
    from timm_asap.hub.remote import Remote

    (run.parent / "bundle").mkdir()
    publish(run, REPO)
    bundle = make_bundle(run, run.parent / "bundle", REPO)
    remote = Remote(REPO)
    verify(remote.api, REPO, "main", bundle)
    bundle.logits[0, 0] += 1e-6
    with pytest.raises(UserError, match="its model gives other scores than the run's"):
        verify(remote.api, REPO, "main", bundle)
    bundle.sha256["gone.txt"] = "0" * 64
    with pytest.raises(UserError, match=r"gone\.txt did not come back"):
        verify(remote.api, REPO, "main", bundle)


# bad input: one line, before anything is sent


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoil_weights(run):
    state = load((run / "model.safetensors").read_bytes())
    # safetensors gives tensors in no fixed order, and the counters of BatchNorm hold no NaN
    state[min(name for name, values in state.items() if values.is_floating_point())].view(-1)[0] = float("nan")
    (run / "model.safetensors").write_bytes(save(state))
    write_evaluation(run)


def narrow_head(run):
    state = load((run / "model.safetensors").read_bytes())
    for key in ("fc.weight", "fc.bias"):
        state[key] = state[key][:3].clone()
    (run / "model.safetensors").write_bytes(save(state))


def of_data(run, **changes):
    record = json.loads((run / "evaluation.json").read_text())
    change_json(run / "evaluation.json", data=record["data"] | changes)


BAD_RUNS = {
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "has no model.safetensors: its training has not"),
    "no evaluation": (lambda run: (run / "evaluation.json").unlink(), "measure it first: `timm-asap evaluate"),
    "no run": (lambda run: (run / "config.yaml").unlink(), "has no config.yaml: expected the folder of a run"),
    "other weights": (
        lambda run: change_json(run / "evaluation.json", model={"weights_sha256": "0" * 64}),
        "was measured on other weights",
    ),
    "label names": (
        lambda run: change_json(run / "config.json", label_names=["a", "b"]),
        "names 2 classes",
    ),
    "classes in run.json": (lambda run: change_json(run / "run.json", data={"classes": 5}), "run.json tells of 5"),
    "classes of the data": (lambda run: of_data(run, classes=7, label_names=None), "of data with 7"),
    "classes of the weights": (narrow_head, "cannot be loaded"),
    "NaN weights": (spoil_weights, "the model gives NaN or infinity"),
    "NaN in a record": (lambda run: change_json(run / "evaluation.json", loss=float("nan")), "holds NaN"),
    "broken record": (lambda run: (run / "evaluation.json").write_text("{"), "cannot be read as JSON"),
}


@pytest.mark.parametrize("kind", BAD_RUNS)
def test_a_run_that_is_not_fit_is_refused_before_anything_is_sent(you, run, kind):
    spoil, message = BAD_RUNS[kind]
    spoil(run)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        publish(run, REPO)
    assert "\n" not in str(raised.value)
    assert you.requests == []


@pytest.mark.parametrize("repo", ["you/has space", "a/b/c", "you/two--dashes", "you/x.git", "", "-you/x", "x" * 97])
def test_names_that_the_hub_refuses(you, run, repo):
    with pytest.raises(UserError, match="expected user/name, such as") as raised:
        publish(run, repo)
    assert "\n" not in str(raised.value)
    assert you.requests == []


def test_a_branch_and_a_pull_request_exclude_each_other(you, run):
    with pytest.raises(UserError, match="give either a revision or create_pr"):
        publish(run, REPO, revision="v2", create_pr=True)
    assert you.requests == []


def test_a_folder_that_is_not_there(you, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        publish(tmp_path / "none", REPO)


def test_a_token_in_a_record_is_refused(you, run):
    token = "hf_" + "aBcDeFgHiJ" * 3 + "kLmN"
    for secret in (token, you.write_token):
        change_json(run / "evaluation.json", note=f"--token {secret}")
        with pytest.raises(UserError, match=r"evaluation\.json would hold an access token") as raised:
            publish(run, REPO)
        assert secret not in str(raised.value)
    assert you.requests == []
