"""What a user installs: the wheel made of the sdist holds the weights, their cards and the templates of cards."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import timm_asap
from timm_asap.zoo.shipped import WEIGHTS, model_cards

ROOT = Path(__file__).parents[1]


def run(folder, *words, **environment):
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind, source, folder):
    run(source, "-m", "hatchling", "build", "-t", kind, "-d", str(folder))
    return next(folder.glob("*.tar.gz" if kind == "sdist" else "*.whl"))


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, folder)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return next((folder / "unpacked").iterdir())


@pytest.fixture(scope="module")
def installed(tmp_path_factory, unpacked_sdist):
    """The folder that stands for layer-packages, far from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build("wheel", unpacked_sdist, folder)) as wheel:
        wheel.extractall(folder / "site-packages")
    return folder / "site-packages"


def test_cards_and_templates_are_found_in_a_checkout():
    assert model_cards() == ROOT / "model_cards"
    assert {path.stem for path in WEIGHTS.glob("*.json")} == {path.stem for path in model_cards().glob("*.md")}


def test_sdist_holds_what_its_tests_need(unpacked_sdist):
    folders = ["docs", "model_cards", "tests", "benchmarks", "tools"]
    for name in ("README.md", "LICENSE", "mkdocs.yml", "train.py", *folders, ".ci/run"):
        assert (unpacked_sdist / name).exists(), name
    shared = {path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py")}
    assert all((unpacked_sdist / path).is_file() for path in shared)


def test_wheel_holds_every_file_of_the_package_and_nothing_else(installed):
    def files(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    ours = {name for name in files(ROOT / "timm_asap") if "__pycache__" not in name}
    cards = {f"model_cards/{name}" for name in files(ROOT / "model_cards")}
    assert files(installed / "timm_asap") == ours | cards
    assert "py.typed" in ours
    assert [path.name.split("-")[0] for path in installed.iterdir() if path.name != "timm_asap"] == ["timm_asap"]


def test_installed_wheel_finds_weights_cards_and_templates(installed, tmp_path):
    program = """
import importlib.metadata, timm, timm_asap
from timm_asap.hub.card import _templates
from timm_asap.zoo.shipped import model_cards
timm.create_model("resnet20_lowres_asap.fashion_mnist", pretrained=True)
print(timm_asap.__file__)
print(model_cards())
print("card.md.jinja" in _templates().list_templates())
print((model_cards() / "resnet20_lowres_asap.fashion_mnist.md").is_file())
print(importlib.metadata.version("timm_asap"))
"""
    # `pip install --target` into somebody's own project
    neighbor = installed / "pyproject.toml"
    neighbor.touch()
    try:
        said = run(tmp_path, "-c", program, PYTHONPATH=str(installed), HF_HUB_OFFLINE="1").split()
    finally:
        neighbor.unlink()
    package = installed / "timm_asap"
    assert said == [str(package / "__init__.py"), str(package / "model_cards"), "True", "True", timm_asap.__version__]


def test_installed_wheel_is_a_program(installed, tmp_path):
    environment = {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    assert run(tmp_path, "-m", "timm_asap", "--version", **environment).startswith(
        f"timm-asap {timm_asap.__version__},"
    )
    listed = run(tmp_path, "-m", "timm_asap", "list", "resnet20_lowres", **environment)
    assert "resnet20_lowres_asap" in listed
