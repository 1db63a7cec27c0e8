"""Ways in which the Hub or the way there fails: one line says what to do, nothing is half done, no token shows.

The rows are those of the table "How the client fails".
"""

import logging
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest

import timm_asap
from tests.support.publishable_run import publishable_run
from timm_asap.errors import UserError
from timm_asap.hub import load, publish
from timm_asap.zoo.hub_client import hide_token, one_line

REPO = "you/net"
AGAIN = "run the same command again: it goes on where it stopped"
TRIES = 6  # of a request that the client repeats


@pytest.fixture
def run(tmp_path):
    return publishable_run(tmp_path)


@pytest.fixture
def you(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    return hub


@pytest.fixture
def impatient(monkeypatch):
    """The client repeats as often as ever, without waiting in between."""
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=lambda seconds: None))


def one_line_of(call, *args, **kwargs):
    with pytest.raises(UserError) as raised:
        call(*args, **kwargs)
    text = str(raised.value)
    assert "\n" not in text
    assert_no_token("".join(traceback.format_exception(raised.value)))
    return text


def assert_no_token(text):
    for token in ("hf_writeTokenOfYou", "hf_readTokenOfYou", "hf_writeTokenOfGuest"):
        assert token not in text


# uploads


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/preupload/", {"status": 500}),
        ("POST", "/objects/batch", {"status": 503}),
        ("PUT", "/lfs-store/", {"status": 502}),
        ("PUT", "/lfs-store/", {"cut_after": 1000}),
    ],
    ids=["preupload", "batch", "upload", "upload cut"],
)
def test_what_the_client_repeats(you, run, impatient, method, path, kind):
    before = you.add_repo(REPO).head
    fault = you.fail(method, path, times=2, **kind)
    publish(run, REPO)  # passes
    assert fault.hits == 2
    assert len(list(you.repo(REPO).head.history())) == 2

    you.stored.clear()
    before = you.add_repo(REPO).head
    fault = you.fail(method, path, times=100, **kind)
    assert AGAIN in one_line_of(publish, run, REPO)
    assert fault.hits >= TRIES
    assert you.repo(REPO).head is before
    you.faults.clear()
    assert publish(run, REPO).commit == you.repo(REPO).head.oid


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("PUT", "/lfs-store/", 400), ("POST", "/lfs/verify", 404), ("PUT", "/lfs-store/", 403)],
    ids=["wrong sha", "not stored", "refused"],
)
def test_what_the_client_gives_up_at_once(you, run, method, path, status):
    before = you.add_repo(REPO).head
    fault = you.fail(method, path, times=100, status=status)
    text = one_line_of(publish, run, REPO)
    assert "Error while uploading 'model.safetensors'" in text or "Error while uploading 'plots" in text
    assert str(status) in text
    assert fault.hits <= 2  # one for each of the two large files
    assert you.repo(REPO).head is before
    you.faults.clear()
    publish(run, REPO)


def test_a_failed_commit_and_the_next_try(you, run):
    you.fail("POST", "/commit/", status=500)
    assert one_line_of(publish, run, REPO) == f"the Hub answered 500 for {REPO}; {AGAIN}"
    assert len(list(you.repo(REPO).head.history())) == 1
    uploads = you.asked("PUT", "/lfs-store/")
    publish(run, REPO)
    assert you.asked("PUT", "/lfs-store/") == uploads  # what was uploaded is not sent twice


def test_a_commit_whose_answer_is_lost(you, run):
    you.fail("POST", "/commit/", lose_answer=True)
    assert AGAIN in one_line_of(publish, run, REPO)
    done = publish(run, REPO)
    assert not done.difference.to_send
    assert done.commit == you.repo(REPO).head.oid
    assert you.asked("POST", "/commit/") == 1


def test_killed_during_the_upload(you, run):
    code = "import sys; from timm_asap.cli import main; import timm_asap.commands.publish as p; p.main(sys.argv[1:])"
    words = [sys.executable, "-c", code, str(run), "--repo", REPO]
    root = str(Path(timm_asap.__file__).parents[1])
    fault = you.fail("PUT", "/lfs-store/", hold=True)
    with subprocess.Popen(
        words, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert fault.reached.wait(60)
        process.kill()
        out = process.communicate()[0]
    you.faults.clear()
    assert "published" not in out
    assert_no_token(out)
    assert len(list(you.repo(REPO).head.history())) == 1
    done = publish(run, REPO)
    assert done.commit == you.repo(REPO).head.oid
    assert len(list(you.repo(REPO).head.history())) == 2


def test_the_second_of_two_publishers_is_told(you, run, tmp_path):
    other = publishable_run(tmp_path / "other")
    (other / "plots" / "accuracy.png").write_bytes(b"\x89PNG\0 another")
    fault = you.fail("POST", "/commit/", hold=True)
    told = []
    slow = threading.Thread(target=lambda: told.append(one_line_of(publish, run, REPO)))
    slow.start()
    assert fault.reached.wait(60)
    first = publish(other, REPO)
    fault.release()
    slow.join()
    assert f"{REPO} changed while this was being published: somebody else published first" in told[0]
    assert you.repo(REPO).head.oid == first.commit
    assert len(list(you.repo(REPO).head.history())) == 2


# the download that proves an upload


def test_a_download_cut_short_is_resumed(you, run, impatient, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 20_000)
    fault = you.fail("GET", r"/resolve/.*model\.safetensors", cut_after=50_000, times=3)
    publish(run, REPO)
    assert fault.hits == 3
    statuses = [s for method, path, s in you.requests if method == "GET" and path.endswith("model.safetensors")]
    assert statuses == [200, 206, 206, 206]


def test_a_download_of_another_size(you, run):
    you.fail("GET", r"/resolve/.*model\.safetensors", truncate_to=1000, times=10)
    assert "Consistency check failed" in one_line_of(publish, run, REPO)
    you.faults.clear()
    assert not publish(run, REPO).difference.to_send


def test_a_download_that_fails_is_tried_again_by_the_next_run(you, run, impatient):
    you.fail("HEAD", "/resolve/", status=503, times=1000)
    assert f"the Hub answered 503 for {REPO}; {AGAIN}" == one_line_of(publish, run, REPO)
    you.faults.clear()
    assert not publish(run, REPO).difference.to_send


def test_offline_nothing_is_published(you, run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert one_line_of(publish, run, REPO) == f"HF_HUB_OFFLINE forbids to ask the Hub about {REPO}: unset it"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "evaluation.json"])
def test_wrong_bytes_are_not_called_published(you, run, capsys, file):
    you.fail("GET", f"/resolve/.*{file}", wrong_bytes=True)
    text = one_line_of(publish, run, REPO)
    assert f"{file} came back with other content (sent sha256 " in text
    assert "published" not in capsys.readouterr().out
    publish(run, REPO)


# loading


@pytest.fixture
def published(you, run):
    publish(run, REPO)
    return you


def test_wrong_bytes_are_not_loaded_and_can_be_repaired(published, run, monkeypatch):
    published.fail("GET", r"model\.safetensors", wrong_bytes=True)
    text = one_line_of(load, f"hf-hub:{REPO}")
    assert "model.safetensors of you/net is not the file that the Hub states" in text
    assert f"`hf download {REPO} model.safetensors --force-download`" in text
    assert text == one_line_of(load, f"hf-hub:{REPO}")  # still there
    damaged = Path(text.split("delete ")[1].split(" and load again")[0])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert text == one_line_of(load, f"hf-hub:{REPO}")  # noticed offline, too
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    damaged.unlink()
    assert not load(f"hf-hub:{REPO}").training


def test_a_damaged_configuration_is_noticed_by_gits_hash(published):
    published.fail("GET", r"config\.json", wrong_bytes=True)
    assert "config.json of you/net is not the file" in one_line_of(load, f"hf-hub:{REPO}")


def test_a_download_of_another_size_is_not_loaded(published):
    published.fail("GET", r"model\.safetensors", truncate_to=1000, times=10)
    assert "Consistency check failed" in one_line_of(load, f"hf-hub:{REPO}")
    published.faults.clear()
    load(f"hf-hub:{REPO}")


def test_a_server_error_never_leads_to_pickled_weights(published, impatient):
    published.fail("HEAD", r"model\.safetensors", status=503, times=100)
    assert f"the Hub answered 503 for {REPO}" in one_line_of(load, f"hf-hub:{REPO}")
    assert published.asked("HEAD", "pytorch_model.bin") == 0


def test_weights_that_are_pickled_are_not_loaded(hub):
    hub.add_repo(REPO, {"config.json": '{"architecture": "test_resnet"}', "pytorch_model.bin": b"\0"})
    assert "has no model.safetensors: timm_asap.load takes safetensors alone" in one_line_of(load, f"hf-hub:{REPO}")
    assert hub.asked("GET", "pytorch_model.bin") == 0


# tokens and rights


def test_without_a_token(hub, run):
    assert one_line_of(publish, run, REPO) == (
        f"no token to publish {REPO} with: sign in with `hf auth login`, or set HF_TOKEN"
    )
    assert hub.requests == []
    assert "expected user/name, or a token" in one_line_of(publish, run, "net", dry_run=True)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("hf_wrong", "the Hub refused the token as wrong or expired"),
        ("hf_readTokenOfYou", "the token may only read"),
        ("hf_writeTokenOfGuest", "it needs the right to write there"),
        ("hf_writeTokenOfYou\u00e9", "can't encode character"),
    ],
    ids=["wrong", "read-only", "another user's", "accent"],
)
def test_tokens_that_are_not_good_enough(hub, run, monkeypatch, token, message):
    before = hub.add_repo(REPO).head
    monkeypatch.setenv("HF_TOKEN", token)
    assert message in one_line_of(publish, run, REPO)
    assert hub.repo(REPO).head is before
    assert hub.asked("PUT", "/lfs-store/") == 0


def test_a_namespace_of_somebody_else(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.guest_token)
    assert "may not do this to you/new" in one_line_of(publish, run, "you/new")
    assert hub.repositories == {}


def test_loading_what_may_not_be_seen(published, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    text = one_line_of(load, f"hf-hub:{REPO}")
    assert "no public repository you/net" in text
    assert "if it is private, sign in with `hf auth login`, or set HF_TOKEN" in text
    monkeypatch.setenv("HF_TOKEN", published.guest_token)
    assert "that your token may see" in one_line_of(load, f"hf-hub:{REPO}")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "refused the token" in one_line_of(load, f"hf-hub:{REPO}")
    published.repo(REPO).private = False
    published.repo(REPO).gated = True
    monkeypatch.setenv("HF_TOKEN", published.guest_token)
    assert f"{REPO} is gated: ask for access at {published.url}/{REPO}" in one_line_of(load, f"hf-hub:{REPO}")
    monkeypatch.setenv("HF_TOKEN", published.read_token)
    load(f"hf-hub:{REPO}")


def test_a_token_shows_nowhere(you, run, tmp_path, capfd, caplog, impatient):
    caplog.set_level(logging.DEBUG)
    publish(run, REPO, dry_run=True)
    you.fail("PUT", "/lfs-store/", times=2, status=500)
    publish(run, REPO)
    load(f"hf-hub:{REPO}")
    you.fail("POST", "/commit/", status=500)
    (run / "plots" / "accuracy.png").write_bytes(b"\x89PNG\0 another")
    one_line_of(publish, run, REPO)
    out, err = capfd.readouterr()
    assert_no_token(out + err + caplog.text)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "config.json" for path in written)
    for path in written:
        assert_no_token(path.read_bytes().decode("latin-1"))
    for commit in you.repo(REPO).head.history():
        assert_no_token(commit.title + commit.description)
        for file in commit.files.values():
            assert_no_token(file.content.decode("latin-1"))


def test_messages_lose_tokens_and_signed_addresses(you):
    address = "https://store/x?X-Amz-Signature=abc"
    with pytest.raises(UserError) as raised, one_line(REPO):
        raise RuntimeError(f"{you.write_token} at {address}")
    assert str(raised.value) == f"{REPO}: (token) at https://store/x; {AGAIN}"
    assert raised.value.__cause__ is None
    assert hide_token("nothing secret") == "nothing secret"
