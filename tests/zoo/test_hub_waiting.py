"""A Hub that never answers is not waited for: each request is given up and repeated, and all of it has an end."""

import logging
import threading
import time
from types import SimpleNamespace

import pytest

from tests.support.publishable_run import publishable_run
from timm_asap.errors import UserError
from timm_asap.hub import load, publish
from timm_asap.hub.bundle import make_bundle
from timm_asap.zoo import hub_client

REPO = "you/net"
WAIT_S = 0.3
BOUND_S = 30  # far above what any of these takes, far below for ever
ROUTES = {
    "whoami": ("GET", "/api/whoami-v2", 3),
    "create": ("POST", "/api/repos/create", 3),
    "info": ("GET", "/api/models/you/net", 3),
    "tree": ("GET", "/tree/", 6),
    "validate": ("POST", "/api/validate-yaml", 3),
    "preupload": ("POST", "/preupload/", 6),
    "batch": ("POST", "/objects/batch", 6),
    "upload": ("PUT", "/lfs-store/", 6),
    "commit": ("POST", "/commit/", 3),
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    base = tmp_path_factory.mktemp("waiting")
    (base / "bundle").mkdir()
    return publishable_run(base), base / "bundle"


@pytest.fixture
def send(hub, ready, monkeypatch):
    """Publishes without making the bundle again, and waits for a moment where a user waits for 20 seconds."""
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    monkeypatch.setattr(hub_client, "WAIT_S", WAIT_S)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", WAIT_S)
    clock = SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)
    monkeypatch.setattr(hub_client, "time", clock)
    run, folder = ready
    if not any(folder.iterdir()):
        _made.append(make_bundle(run, folder, REPO))
    monkeypatch.setattr("timm_asap.hub.publishing.make_bundle", lambda *args: _made[0])
    monkeypatch.setattr("timm_asap.hub.publishing.verify", lambda *args: None)
    return lambda **options: publish(run, REPO, **options)


_made = []


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_that_never_answers(hub, send, caplog, route):
    method, path, tries = ROUTES[route]
    fault = hub.fail(method, path, times=10**6, silent=True)
    start = time.monotonic()
    with pytest.raises(UserError) as raised:
        send()
    assert time.monotonic() - start < BOUND_S
    assert "no answer within 0.3 s" in str(raised.value)
    assert str(raised.value).endswith("run the same command again: it goes on where it stopped")
    assert tries <= fault.hits <= 2 * tries  # two files are uploaded
    assert [record for record in caplog.records if record.levelno == logging.WARNING]
    heads = {repository.head.title for repository in hub.repositories.values()}
    assert heads <= {"initial commit"}
    hub.faults.clear()
    assert send().commit == hub.repo(REPO).head.oid


def test_a_route_that_is_silent_once(hub, send, caplog):
    for method, path, _ in ROUTES.values():
        hub.fail(method, path, silent=True)
    assert send().commit == hub.repo(REPO).head.oid
    assert "asking again, 2 of 3" in caplog.text
    assert "looking whether it was made, 2 of 3" in caplog.text
    assert len(list(hub.repo(REPO).head.history())) == 2


def test_a_commit_that_was_made_and_not_answered_is_not_made_twice(hub, send):
    fault = hub.fail("POST", "/commit/", hold=True)
    done = []
    thread = threading.Thread(target=lambda: done.append(send()))
    thread.start()
    assert fault.reached.wait(BOUND_S)
    time.sleep(2 * WAIT_S)  # the client has gone by now; then the Hub makes the commit
    fault.release()
    thread.join(BOUND_S)
    assert done[0].commit == hub.repo(REPO).head.oid
    assert len(list(hub.repo(REPO).head.history())) == 2


def test_an_answer_that_comes_byte_by_byte_has_an_end(hub, send, monkeypatch):
    monkeypatch.setattr(hub_client, "DEADLINE_S", 1.0)
    hub.add_repo(REPO, {f"{n:04}.txt": "x" for n in range(100)})
    hub.fail("GET", "/tree/", times=10, drip=True)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"did not answer about you/net in time \(no answer within 1 s\)"):
        send()
    assert time.monotonic() - start < BOUND_S
    hub.faults.clear()
    while hub_client._running:  # the call that was given up ends, too
        assert time.monotonic() - start < BOUND_S
        time.sleep(0.05)


@pytest.mark.parametrize("header", [{"Retry-After": "86400"}, {"ratelimit": '"api";r=0;t=86400'}])
def test_a_pause_of_a_day_is_not_slept_through(hub, send, header):
    for method, path in (("POST", "/preupload/"), ("HEAD", "/resolve/")):
        hub.fail(method, path, times=10**6, status=429, headers=header)
    hub.add_repo("you/other", {"config.json": "{}"})
    for call in (send, lambda: load("hf-hub:you/other")):
        with pytest.raises(UserError, match=r"in time \(it asks for a pause of 86,400 s\); run the same command again"):
            call()


def test_limits_are_those_of_our_calls_alone(hub, send):
    from huggingface_hub import get_session

    send()
    seen = []
    session = get_session()
    session.event_hooks["request"].append(lambda request: seen.append(request.extensions["timeout"]["read"]))
    hub.add_repo("you/other", {"a.txt": "a"})
    session.get(f"{hub.url}/api/models/you/other")
    send()
    assert seen[0] is None
    assert set(seen[1:]) & {WAIT_S}


def test_a_patient_user_is_waited_for_longer(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 60)
    assert hub_client._wait_s() == 60


def test_the_default_limits_end_within_minutes():
    assert hub_client.WAIT_S * 6 + 23 < hub_client.DEADLINE_S + 30 < 300


def test_a_download_that_never_answers(hub, send, monkeypatch, tmp_path):
    hub.add_repo(REPO, {"config.json": "{}"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", WAIT_S)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_ETAG_TIMEOUT", WAIT_S, raising=False)
    for method in ("HEAD", "GET"):
        fault = hub.fail(method, "/resolve/", times=10**6, silent=True)
        start = time.monotonic()
        with pytest.raises(UserError):
            load(f"hf-hub:{REPO}")
        assert time.monotonic() - start < BOUND_S
        assert fault.hits
        hub.faults.clear()
