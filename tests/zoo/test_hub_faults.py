"""Faults that the local Hub injects, and how the real client takes each."""

import threading
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, get_session, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from tests.support.hub.faults import Fault

REPO = "you/net"
WEIGHTS = bytes(range(256)) * 400


@pytest.fixture
def api(hub):
    """The client of a user who has an empty repository."""
    api = HfApi(token=hub.write_token)
    api.create_repo(REPO)
    return api


def commit(api, path="model.safetensors", content=WEIGHTS):
    return api.create_commit(REPO, [CommitOperationAdd(path, content)], commit_message="Change")


def test_a_passing_server_error_is_retried(hub, api):
    faults = [hub.fail("PUT", "/lfs-store/", status=503), hub.fail("POST", "/preupload/", status=502)]
    commit(api)
    assert [fault.hits for fault in faults] == [1, 1]
    assert hub.repo(REPO).head.files["model.safetensors"].content == WEIGHTS


def test_an_upload_cut_short_is_retried(hub, api):
    hub.fail("PUT", "/lfs-store/", cut_after=1000)
    commit(api)
    assert hub.repo(REPO).head.files["model.safetensors"].content == WEIGHTS
    assert [status for method, _, status in hub.requests if method == "PUT"] == [0, 200]


@pytest.mark.parametrize(("method", "path", "status"), [("PUT", "/lfs-store/", 403), ("POST", "/verify$", 404)])
def test_a_refused_upload_leaves_the_branch(hub, api, method, path, status):
    before = hub.repo(REPO).head
    hub.fail(method, path, status=status)
    with pytest.raises(RuntimeError, match=r"Error while uploading 'model\.safetensors'"):
        commit(api)
    assert hub.repo(REPO).head is before


def test_a_failed_commit_is_not_retried(hub, api):
    before = hub.repo(REPO).head
    hub.fail("POST", "/commit/", status=500)
    with pytest.raises(HfHubHTTPError, match="500"):
        commit(api, "a.txt", b"a")
    assert hub.repo(REPO).head is before


def test_a_commit_whose_answer_is_lost_was_made(hub, api):
    hub.fail("POST", "/commit/", lose_answer=True)
    with pytest.raises(Exception, match="disconnected"):
        commit(api, "a.txt", b"a")
    assert "a.txt" in hub.repo(REPO).head.files
    commit(api, "a.txt", b"a")
    assert hub.asked("POST", "/commit/") == 1  # the second had nothing to do


def test_a_download_cut_short_is_resumed(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # only whole chunks are kept
    hub.add_repo(REPO, {"model.safetensors": WEIGHTS})
    hub.fail("GET", "/resolve/", cut_after=5000)
    assert Path(hf_hub_download(REPO, "model.safetensors")).read_bytes() == WEIGHTS
    assert [status for method, path, status in hub.requests if method == "GET" and "/resolve/" in path] == [200, 206]


def test_a_download_of_another_size_is_refused(hub):
    hub.add_repo(REPO, {"model.safetensors": WEIGHTS})
    hub.fail("GET", "/resolve/", truncate_to=5000)
    with pytest.raises(OSError, match="Consistency check failed"):
        hf_hub_download(REPO, "model.safetensors")


def test_wrong_bytes_of_the_right_size_are_believed(hub):
    hub.add_repo(REPO, {"model.safetensors": WEIGHTS})
    hub.fail("GET", "/resolve/", wrong_bytes=True)
    content = Path(hf_hub_download(REPO, "model.safetensors")).read_bytes()
    assert len(content) == len(WEIGHTS)
    assert content != WEIGHTS
    assert len(HfApi().verify_repo_checksums(REPO).mismatches) == 1


def test_a_request_can_be_held(hub, api):
    fault = hub.fail("PUT", "/lfs-store/", hold=True)
    upload = threading.Thread(target=commit, args=(api,))
    upload.start()
    assert fault.reached.wait(30)
    upload.join(0.5)
    assert upload.is_alive()
    assert "model.safetensors" not in hub.repo(REPO).head.files
    fault.release()
    upload.join()
    assert "model.safetensors" in hub.repo(REPO).head.files


def test_a_fault_meets_as_many_requests_as_asked(hub):
    hub.add_repo(REPO, {"a.txt": "a"})
    hub.fail("HEAD", r"resolve/main/a\.txt", status=500, times=2)
    statuses = [get_session().head(f"{hub.url}/{REPO}/resolve/main/a.txt").status_code for _ in range(3)]
    assert statuses == [500, 500, 200]


def test_a_fault_has_one_kind():
    for kinds in ({}, {"status": 500, "cut_after": 0}):
        with pytest.raises(ValueError, match="exactly one kind"):
            Fault("GET", "", **kinds)
