"""What holds for every test: no network beyond 127.0.0.1, and caches that are thrown away afterwards."""

import os
import signal
import sys
import tempfile

# Before torch is imported. The tests' tensors are small: a second thread gains nothing, and waiting for it on a busy
# machine made the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.support.hub_server import HubServer

# For a type checker alone (tests/test_types.py): half of their lines are mistakes. The doctests would import them.
collect_ignore = ["typing_accepted.py", "typing_rejected.py"]

# The Hugging Face libraries read these when they are imported, so the Hub of the tests has to stand before that.
if "huggingface_hub" in sys.modules:
    raise RuntimeError("huggingface_hub was imported before tests/conftest.py: its endpoint would be the real one")
_HUB = HubServer()
_CACHE = tempfile.TemporaryDirectory(prefix="timm_asap_tests_")
os.environ.update(
    HF_ENDPOINT=_HUB.url,
    HF_HOME=_CACHE.name,
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_UPDATE_CHECK="1",
    HF_HUB_DISABLE_XET="1",  # which the server does not speak
    NO_PROXY="127.0.0.1",
    no_proxy="127.0.0.1",
)
for name in (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "TRANSFORMERS_OFFLINE",
):
    os.environ.pop(name, None)


def pytest_configure(config):
    # huggingface_hub 2.4 uploads a file as httpx2's `data`, which wants `content`
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


def pytest_unconfigure():
    _HUB.close()
    _CACHE.cleanup()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The local Hub, empty, and an empty cache of downloads; nobody is signed in."""
    _HUB.reset()
    cache = str(tmp_path / "hub_cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
    monkeypatch.setenv("HF_HUB_CACHE", cache)  # for child processes
    yield _HUB
    crashes = list(_HUB.crashes)
    _HUB.reset()
    assert not crashes, crashes[0]


@pytest.fixture(autouse=True)
def offline_without_hub(request, monkeypatch):
    """A test that does not ask for the Hub has no network at all."""
    if "hub" not in request.fixturenames:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def usual_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    yield
    signal.signal(signal.SIGINT, before)
