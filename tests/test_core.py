"""The core works with torch, timm, safetensors and huggingface-hub alone; a command that lacks more names its extra."""

import os
import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest

from timm_asap import cli
from timm_asap.errors import _OPTIONAL

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent!r} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def run(program, absent, cwd=ROOT):
    """A program in a process that finds none of the absent packages."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-W", "error::ImportWarning", "-c", WITHOUT.format(absent=set(absent)) + program]
    return subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True, check=False)


def command(*words):
    return f"sys.argv = ['timm-asap', *{list(words)!r}]\nfrom timm_asap.cli import main\nsys.exit(main())"


def packages(requirements):
    """Names of packages, those of this one's other extras included."""
    found = set()
    for line in requirements:
        if own := re.fullmatch(r"timm_asap\[(.+)\]", line):
            found |= packages(entry for extra in own[1].split(",") for entry in EXTRAS[extra])
        else:
            found.add(re.match(r"[\w-]+", line)[0])
    return found


def test_core_needs_no_optional_package(tmp_path):
    program = """
import timm, torch, torchvision
import timm_asap
from timm_asap import hub
import timm_asap.evaluation.aliasing
from timm_asap.evaluation import corrupt
assert timm_asap.AsapPool2d(3)(torch.rand(1, 3, 8, 8)).shape == (1, 3, 4, 4)
assert timm.create_model("test_resnet_asap", num_classes=2)(torch.rand(1, 3, 64, 64)).shape == (1, 2)
plain = torchvision.models.resnet18()
assert timm_asap.convert(plain, example=torch.zeros(1, 3, 64, 64)).complete
trained = timm.create_model("resnet20_lowres.fashion_mnist", pretrained=True).eval()
timm_asap.heal(trained, torch.rand(24, 1, 32, 32))
assert timm_asap.load("resnet20_lowres_asap.fashion_mnist").num_classes == 10
layers = timm_asap.evaluation.aliasing.measure_aliasing(trained, [torch.rand(2, 1, 32, 32)])
assert layers
corrupt(torch.rand(2, 3, 32, 32), "fog", 1, table="cifar")
try:
    hub.export_onnx(trained, "model.onnx")
except timm_asap.errors.UserError as error:
    print(error)
try:
    timm_asap.adapt
except ModuleNotFoundError as error:
    print(error)
"""
    # SciPy comes with scikit-learn alone; PyYAML is a part of the core, for huggingface_hub imports it
    done = run(program, {*_OPTIONAL, "scipy"}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "ONNX export needs onnx, onnxscript, onnxruntime: pip install 'timm_asap[onnx]'",
        "timm_asap.adapt needs accelerate, which is not installed: pip install 'timm_asap[train]'",
    ]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_names_the_extra_it_lacks(name):
    done = run(command(name, "--help"), _OPTIONAL)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "which is not installed" in done.stderr
    assert f"pip install 'timm_asap[{cli.EXTRAS[name]}]'" in done.stderr


def test_train_py_names_the_extra_it_lacks():
    done = run("sys.argv = ['train.py', '--help']\nimport train\nsys.exit(train.main())", _OPTIONAL)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "train.py: error: train needs docstring-parser, which is not installed: pip install 'timm_asap[train]'"
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["list", "resnet18_asap"],
        pytest.param(["convert", "test_resnet", "--dry-run"], marks=pytest.mark.slow),
        ["train", "--model", "test_resnet", "--dataset", "digits", "--dry-run"],
        pytest.param(["card", "runs/none"], marks=pytest.mark.slow),
        pytest.param(["evaluate", "runs/none", "--dataset", "digits"], marks=pytest.mark.slow),
        pytest.param(["heal", "runs/none", "--dataset", "digits", "--output", "x"], marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_the_named_extra_is_enough(words, tmp_path):
    """With the core and the extra alone, a command comes to an end, or to the fault of its own flags."""
    present = packages(EXTRAS[cli.EXTRAS[words[0]]])
    done = run(command(*words), {name for name, package in _OPTIONAL.items() if package not in present}, tmp_path)
    assert "not installed" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if "runs/none" in words else 0), done.stderr


def test_a_package_of_the_core_that_is_missing_is_one_line_too():
    done = run("import timm_asap", {"timm"})
    said = "timm_asap needs timm, which is not installed: pip install timm"
    assert done.stderr.splitlines()[-1] == f"timm_asap._installation.InstallationError: {said}"


def test_default_installation_is_the_core_and_the_extras_of_the_readme():
    core = {"torch", "timm", "filelock", "huggingface-hub", "numpy", "pillow", "pyyaml", "safetensors"}
    extras = {line for name in ("cli", "train", "eval", "hub") for line in EXTRAS[name] if "timm_asap" not in line}
    others = {line for line in PROJECT["dependencies"] if re.match(r"[\w-]+", line)[0] not in core}
    assert others == extras
    assert core <= packages(PROJECT["dependencies"])


def test_every_optional_package_is_in_an_extra_and_in_all():
    optional = set(_OPTIONAL.values())
    assert optional <= packages(EXTRAS["all"])
    assert set(cli.EXTRAS) == set(cli.COMMANDS)
    named = {package for extra in set(cli.EXTRAS.values()) | {"attacks"} for package in packages(EXTRAS[extra])}
    assert optional == named


def test_core_packages_come_with_timm_and_its_dependencies():
    """`pip install timm`, then `pip install --no-deps timm_asap`: what docs/install.md says."""
    reached, todo = set(), {"timm"}
    while todo:
        name = todo.pop()
        reached.add(name)
        lines = [line for line in metadata(name).get_all("Requires-Dist") or () if ";" not in line]
        todo |= {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in lines} - reached
    core = {"torch", "filelock", "huggingface-hub", "numpy", "pillow", "pyyaml", "safetensors"}
    assert core <= reached
