"""The demo as a Space: a folder that stands alone, names nothing of this machine, and serves."""

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import SpaceCard

from tests.support.demo_models import DIGITS, save_digits_twin, save_network
from tests.support.demo_server import ask, component, free_port, serving
from timm_asap.commands.demo import main
from timm_asap.demo import open_pair, predict
from timm_asap.errors import UserError

pytest.importorskip("gradio", reason="the demo extra installs it")

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs_on_this_machine")
    save_digits_twin(folder / "digits_run")
    (folder / "digits_run" / "config.yaml").write_text(f"output: {folder}\n")
    save_network(folder / "other", "resnet20_lowres", DIGITS, seed=1)
    return folder


@pytest.fixture(scope="module")
def space(runs):
    words = [str(runs / "digits_run"), "--plain", str(runs / "other"), "--corruption", "fog", "--severity", "2"]
    main([*words, "--space", str(runs / "spaces" / "digits")])
    return runs / "spaces" / "digits"


def test_the_folder(space):
    assert {path.name for path in space.iterdir()} == {
        *("README.md", "app.py", "requirements.txt", "examples", "model", "plain", "timm_asap")
    }
    assert [p.name for p in space.parent.iterdir()] == ["digits"]
    for kind, run in (("model", "digits_run"), ("plain", "other")):
        assert {path.name for path in (space / kind / run).iterdir()} == {"model.safetensors", "config.json"}
    assert not list(space.rglob("__pycache__"))
    assert "MIT License" in (space / "timm_asap" / "LICENSE").read_text()


def test_the_card(space):
    card = SpaceCard.load(space / "README.md")
    fields = card.data.to_dict()
    assert fields["sdk"] == "gradio"
    assert fields["sdk_version"] == importlib.metadata.version("gradio")
    assert fields["python_version"] == "{}.{}".format(*sys.version_info)
    assert fields["app_file"] == "app.py"
    assert len(fields["short_description"]) <= 60  # the Hub refuses longer ones
    assert "`resnet20_lowres_asap (digits_run)` beside `resnet20_lowres (other)`" in card.text
    assert "doi:10.24432/C50P49" in card.text


def test_requirements_are_the_packages_own(space):
    """As pyproject.toml names them, without a build that no index has; Gradio is the Space's sdk_version."""
    lines = dict(line.split("==") for line in (space / "requirements.txt").read_text().splitlines())
    text = (_ROOT / "pyproject.toml").read_text()
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)[1]
    assert sorted(lines) == sorted(re.findall(r'"([\w-]+)>=', dependencies))
    assert all(re.fullmatch(r"\d+(\.\w+)*", version) for version in lines.values())


def test_nothing_of_this_machine(space, runs):
    for path in space.rglob("*"):
        if path.suffix in (".py", ".md", ".txt", ".json", ".yaml", ".jinja") and path.is_file():
            text = path.read_text(encoding="utf-8")
            assert runs.name not in text, path
            assert str(Path.home()) not in text, path
            assert not re.search(r"\bhf_[A-Za-z]{30,}", text), path


def test_its_app_starts_and_answers(space, runs, tmp_path):
    """From another folder, with the copy of the package and none of the checkout."""
    port = free_port()
    address = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    environment = {**address, "GRADIO_TEMP_DIR": str(tmp_path / "uploads"), "PYTHONPATH": ""}
    words = [sys.executable, "-c", _START.format(app=str(space / "app.py"))]
    with serving(words, r"^from (.*), on (\S+)$", cwd=tmp_path, env=environment) as started:
        assert Path(started[1]).parent == space
        url = started[2].rstrip("/")
        assert url == f"http://127.0.0.1:{port}"
        assert component(url, "corruption")["value"] == "fog"
        assert component(url, "severity")["value"] == 2
        picture = component(url, "picture")["value"]
        _, plain, twin, verdict, *_ = ask(url, picture, "fog", 2)
    expected = predict(
        open_pair(str(runs / "digits_run"), str(runs / "other")), space / "examples" / "digit_0.png", "fog", 2
    )
    assert verdict == expected.verdict
    for shown, answer in ((plain, expected.plain), (twin, expected.twin)):
        assert [c["label"] for c in shown["confidences"]] == list(answer)
        assert [c["confidence"] for c in shown["confidences"]] == pytest.approx(list(answer.values()), abs=1e-4)


# Runs the app as `python app.py` does, and says where it serves.
_START = """
import runpy, sys
sys.path[0] = {app!r}.rpartition("/")[0]
import gradio
def launch(app, launch=gradio.Blocks.launch, **settings):
    launch(app, prevent_thread_lock=True, **settings)
    import timm_asap
    print("from " + timm_asap.__path__[0] + ", on " + app.local_url)
    app.block_thread()
gradio.Blocks.launch = launch
runpy.run_path({app!r}, run_name="__main__")
"""


def test_a_model_of_the_hub_is_named(hub, runs, tmp_path):
    files = {p.name: p.read_bytes() for p in (runs / "digits_run").iterdir() if p.name != "config.yaml"}
    hub.add_repo("someone/digits", files)
    main(["hf-hub:someone/digits@main", "--space", str(tmp_path / "space")])
    assert "MODEL = 'hf-hub:someone/digits@main'\nPLAIN = None\n" in (tmp_path / "space" / "app.py").read_text()
    assert not (tmp_path / "space" / "model").exists()
    front_matter = (tmp_path / "space" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front_matter)["models"] == ["someone/digits"]


def test_a_failure_leaves_nothing(runs, tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        main([str(runs / "digits_run"), "--examples", str(tmp_path / "none"), "--space", str(tmp_path / "space")])
    assert list(tmp_path.iterdir()) == []
