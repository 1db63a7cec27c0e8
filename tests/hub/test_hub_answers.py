"""Answers that are well formed and not what was meant: a proxy's page, another server, a key that is missing.

Each route is answered with each of them, persistently. Whatever comes, there is one line or success, no branch is left
half moved, nothing hangs, and the next run completes.
"""

import json
import time
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save
from timm.models import save_for_hf

from tests.support.publishable_run import publishable_run
from timm_asap.cli import main
from timm_asap.errors import UserError
from timm_asap.evaluation.models import open_model
from timm_asap.healing.pair import load_pair
from timm_asap.hub import load, publish
from timm_asap.hub.bundle import make_bundle

REPO = "you/net"
PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body>Welcome to the hotel</body></html>"
WHOLE = {
    "null": b"null",
    "list": b"[]",
    "list of one": b"[1]",
    "object": b"{}",
    "text": b'"text"',
    "number": b"7",
    "true": b"true",
    "page": PAGE,
    "empty": b"",
    "no UTF-8": b"\xff\xfe\x00{",
    "deep": b"[" * 50_000,
}
WRONG = (None, 7, "text", [], {}, [None], {"a": None}, True)
ROUTES = {
    "whoami": ("GET", "/api/whoami-v2"),
    "create": ("POST", "/api/repos/create"),
    "info": ("GET", "^/api/models/you/net(/revision/[^/]+)?(\\?|$)"),
    "tree": ("GET", "/tree/"),
    "refs": ("GET", "/refs$"),
    "branch": ("POST", "/branch/"),
    "validate": ("POST", "/api/validate-yaml"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/objects/batch"),
    "upload": ("PUT", "/lfs-store/"),
    "verify": ("POST", "/lfs/verify"),
    "commit": ("POST", "/commit/"),
    "discussions": ("GET", "/discussions"),
    "file head": ("HEAD", "/resolve/"),
    "file": ("GET", "/resolve/"),
}
TO_A_BRANCH = ("refs", "branch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, and what is sent of it."""
    base = tmp_path_factory.mktemp("answers")
    run = publishable_run(base)
    (base / "bundle").mkdir()
    return run, base / "bundle"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Whatever is repeated is repeated at once."""
    without_pause = SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic)
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download", "timm_asap.zoo.hub_client"):
        monkeypatch.setattr(f"{module}.time", without_pause)


@pytest.fixture
def send(hub, folder, monkeypatch):
    """Publishes without making the bundle again; whether the weights come back is compared by sha256 alone."""
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    run, place = folder
    if not any(place.iterdir()):
        folder_of_bundle[place] = make_bundle(run, place, REPO)
    bundle = folder_of_bundle[place]
    monkeypatch.setattr("timm_asap.hub.publishing.make_bundle", lambda *args: bundle)
    monkeypatch.setattr("timm_asap.hub.publishing.load", lambda name: None)
    monkeypatch.setattr("timm_asap.hub.publishing.sample_logits", lambda model: bundle.logits)
    return lambda **options: publish(run, REPO, **options)


folder_of_bundle = {}


def one_line_or_success(call, *args, **options):
    """The line, or None."""
    try:
        call(*args, **options)
    except UserError as error:
        line = str(error)
    else:
        return None
    assert line.isprintable()
    assert len(line) < 1000
    assert "hf_writeTokenOfYou" not in line
    return line


def kinds_of_options(route):
    if route in TO_A_BRANCH:
        return {"revision": "next"}
    return {"create_pr": True} if route == "discussions" else {}


def spoilings(body):
    """Ways to spoil a JSON answer: each key left out, and each value of another type."""
    try:
        content = json.loads(body)
    except ValueError:
        return
    yield "cut", body[: len(body) // 2]
    for place in _places(content):
        for wrong in (..., *WRONG):
            yield f"{'.'.join(map(str, place))} {wrong}", json.dumps(_replaced(content, place, wrong)).encode()


def _places(node, place=()):
    items = node.items() if isinstance(node, dict) else enumerate(node[:2]) if isinstance(node, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from _places(value, (*place, key))


def _replaced(node, place, wrong):
    if not place:
        return wrong
    node = dict(node) if isinstance(node, dict) else list(node)
    if len(place) == 1 and wrong is ...:
        del node[place[0]]
    else:
        node[place[0]] = _replaced(node[place[0]], place[1:], wrong)
    return node


def try_answer(hub, send, route, fault):
    """Publish with a fault to a new repository; then without it."""
    method, path = ROUTES[route]
    options = kinds_of_options(route)
    hub.reset()
    if route in ("discussions", "refs"):
        refs = hub.add_repo(REPO, {"README.md": "---\nlicense: mit\n---\n"}).refs
        refs["refs/heads/next"] = refs["refs/heads/main"]
    hub.fail(method, path, times=10**6, **fault)
    line = one_line_or_success(send, **options)
    hub.faults.clear()
    assert hub.crashes == []
    for repository in hub.repositories.values():
        for commit in repository.refs.values():
            assert set(commit.files) in ({".gitattributes"}, {".gitattributes", "README.md"}) or (
                {"model.safetensors", "config.json", "README.md", "evaluation.json"} < set(commit.files)
            )
    done = send(**options)
    assert done.commit
    return line


@pytest.mark.parametrize(
    "kinds",
    [("null", "list", "object", "page", "empty"), pytest.param(tuple(WHOLE), marks=pytest.mark.slow)],
    ids=["usual", "all"],
)
@pytest.mark.parametrize("route", ROUTES)
def test_publish_with_an_answer_of_something_else(hub, send, route, kinds):
    for kind, body in WHOLE.items():
        if kind not in kinds:
            continue
        line = try_answer(hub, send, route, {"answer": body})
        if kind == "page" and route not in ("branch", "upload", "verify", "discussions"):
            assert line is not None
    if route not in ("branch", "upload", "verify", "file", "file head"):
        line = try_answer(hub, send, route, {"rewrite": lambda body: body[: len(body) // 2]})
        assert line is None or "is not an answer of the Hub" in line


@pytest.mark.slow
@pytest.mark.parametrize("route", sorted(ROUTES.keys() - {"upload", "file", "file head"}))
def test_publish_with_each_key_of_each_answer_spoiled(hub, send, route):
    method, path = ROUTES[route]
    bodies = []
    hub.fail(method, path, times=10**6, rewrite=lambda body: bodies.append(body) or body)
    if route in ("discussions", "refs"):
        refs = hub.add_repo(REPO, {"README.md": "---\nlicense: mit\n---\n"}).refs
        refs["refs/heads/next"] = refs["refs/heads/main"]
        send(**kinds_of_options(route))
    send(**kinds_of_options(route))
    assert bodies
    trials = 0
    for _, spoiled in spoilings(max(bodies, key=len)):
        try_answer(hub, send, route, {"rewrite": lambda body, spoiled=spoiled: spoiled})
        trials += 1
    print(route, trials)


def test_the_lines_say_what_to_do(hub, send):
    for route in ("whoami", "create", "info", "tree", "preupload", "batch", "commit", "file head"):
        line = try_answer(hub, send, route, {"answer": PAGE})
        assert "a proxy, the login page of a network or an older server may stand between" in line
        assert "run the same command again" in line


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"[]", PAGE], ids=["empty", "null", "object", "list", "page"])
def test_a_repository_that_is_there_already_and_an_answer_without_its_address(hub, send, body):
    """409 at creation means that it is there, whatever the body says."""
    hub.add_repo(REPO)
    hub.fail("POST", "/api/repos/create", times=10, rewrite=lambda _: body)
    assert send().commit == hub.repo(REPO).head.oid


def test_a_creation_that_is_never_over(hub, send, monkeypatch):
    """The client repeats this answer without end."""
    monkeypatch.setattr("timm_asap.zoo.hub_client.DEADLINE_S", 1.0)
    body = b"Cannot create repo: another conflicting operation is in progress"
    hub.add_repo("you/other")
    monkeypatch.setattr("timm_asap.hub.remote.Remote.find", lambda self, revision: None)
    hub.add_repo(REPO)  # so that creation answers 409
    hub.fail("POST", "/api/repos/create", times=10**6, rewrite=lambda _: body)
    line = one_line_or_success(send)
    assert "did not answer about you/net in time (no answer within 1 s)" in line


# names with a line break, which the client waits over


@pytest.mark.parametrize("revision", ["main\n", "main\r", "a b", "a..b", "", "a\x00", "-x", "x.lock", "a:b", "\u2028x"])
def test_revisions_that_git_refuses(hub, send, revision):
    with pytest.raises(UserError, match="expected a branch"):
        send(revision=revision)
    with pytest.raises(UserError, match="expected a branch, a tag or a commit after the @"):
        load(f"hf-hub:{REPO}@{revision}")
    assert hub.requests == []


@pytest.mark.parametrize("repo", ["you/net\n", "you/net ", "\nyou/net"])
def test_repositories_with_a_blank(hub, send, repo):
    with pytest.raises(UserError, match="expected user/name"):
        load(f"hf-hub:{repo}")
    assert hub.requests == []


# loading


@pytest.fixture
def served(hub, tmp_path):
    model = timm.create_model("test_resnet_asap", num_classes=5)
    save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    hub.add_repo(REPO, files)
    return hub


OPENERS = {
    "load": load,
    "evaluate, demo and card": open_model,
    "heal": lambda name: load_pair(name, {}),
}


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_every_way_to_open_a_model_takes_any_answer(served, tmp_path, monkeypatch, opener, method, file):
    faults = [{"answer": PAGE}, {"status": 503}, {"wrong_bytes": True}]
    if opener == "load":
        faults += [{"answer": body} for body in WHOLE.values()]
        faults += [{"status": status} for status in (302, 400, 401, 403, 404, 407, 410, 429, 500)]
        faults += [{"truncate_to": 10}, {"lose_answer": True}]
    for number, fault in enumerate(faults):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / f"cache{number}"))
        served.fail(method, f"/resolve/.*/{file}", times=10**6, **fault)
        line = one_line_or_success(OPENERS[opener], f"hf-hub:{REPO}")
        if method == "GET" or "truncate_to" not in fault:  # of large files the Hub states the size elsewhere, too
            assert (line is None) == (method == "HEAD" and "wrong_bytes" in fault), (fault, line)
        served.faults.clear()
    assert not [path for _, path, _ in served.requests if path.endswith((".bin", ".pth", ".pt"))]


COMMANDS = {
    "evaluate": ["evaluate", f"hf-hub:{REPO}", "--dataset", "digits", "--output", "out"],
    "heal": ["heal", f"hf-hub:{REPO}", "--dataset", "digits", "--output", "out"],
    "demo": ["demo", f"hf-hub:{REPO}", "--space", "out"],
    "export": ["export", f"hf-hub:{REPO}", "--onnx", "out"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_it_in_a_line_and_writes_nothing(served, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    for method, fault, line in (
        ("HEAD", {"answer": PAGE}, "is not an answer of the Hub"),
        ("HEAD", {"status": 503}, "the Hub answered 503"),
        ("GET", {"wrong_bytes": True}, "is not the file that the Hub states"),
    ):
        served.fail(method, r"/resolve/.*model\.safetensors", times=10**6, **fault)
        assert main([*COMMANDS[command]]) == 2
        err = [text for text in capsys.readouterr().err.splitlines() if text.startswith("timm-asap")]
        assert len(err) == 1
        assert line in err[0]
        assert not (tmp_path / "out").exists()
        served.faults.clear()
    assert not [path for _, path, _ in served.requests if path.endswith((".bin", ".pth"))]


def test_training_takes_no_wrong_bytes_either(served, tmp_path, monkeypatch, capsys):
    from tests.support.tiny_run import main as train

    flags = ["--dataset", "digits", "--output", str(tmp_path / "run"), "--epochs", "1"]
    for option in ("--model", "--teacher"):
        served.fail("GET", r"/resolve/.*model\.safetensors", times=10**6, wrong_bytes=True)
        model = [] if option == "--model" else ["--model", "resnet20_lowres"]
        assert train([*flags, *model, option, f"hf-hub:{REPO}", *(["--pretrained"] if not model else [])]) == 2
        err = capsys.readouterr().err
        assert "is not the file that the Hub states" in err
        assert err.count("\n") == 1
        assert not (tmp_path / "run").exists()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "second"))


def test_a_tag_of_timm_is_compared_and_never_pickled(hub):
    state = timm.create_model("test_resnet").state_dict()
    hub.add_repo("timm/test_resnet.r160_in1k", {"model.safetensors": save(state), "pytorch_model.bin": b"\0"})
    for fault in ({"status": 503}, {"status": 404}, {"answer": PAGE}):
        hub.fail("HEAD", "/resolve/", times=10**6, **fault)
        assert one_line_or_success(open_model, "test_resnet.r160_in1k") is not None
        hub.faults.clear()
    hub.fail("GET", "/resolve/", wrong_bytes=True)
    assert "is not the file that the Hub states" in one_line_or_success(open_model, "test_resnet_asap.r160_in1k")
    assert not [path for _, path, _ in hub.requests if path.endswith(".bin")]


def test_a_gated_repository_says_what_to_do_in_every_command(served, monkeypatch):
    served.repo(REPO).gated = True
    for opener in OPENERS.values():
        line = one_line_or_success(opener, f"hf-hub:{REPO}")
        assert line.startswith(f"{REPO} is gated: ask for access at {served.url}/{REPO}, and sign in with")
    monkeypatch.setenv("HF_TOKEN", served.guest_token)
    line = one_line_or_success(open_model, f"hf-hub:{REPO}")
    assert line == f"{REPO} is gated: ask for access at {served.url}/{REPO}; once it is granted, run this again"


def test_a_proxy_that_needs_a_package(served, send, monkeypatch):
    from huggingface_hub.utils import close_session

    close_session()
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    try:
        for call in (send, lambda: load(f"hf-hub:{REPO}")):
            line = one_line_or_success(call)
            assert line == (
                "the Hub cannot be asked through the SOCKS proxy of ALL_PROXY: pip install socksio, or unset it"
            )
    finally:
        close_session()
    torch.manual_seed(0)
