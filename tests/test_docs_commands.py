"""The shell blocks of README.md and docs/: each runs, or says why not, and every flag in them is one."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from timm_asap import cli
from timm_asap.command_line import read_flags
from timm_asap.evaluation.config import EvaluateConfig
from timm_asap.training.command_line import parse as parse_training

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("run_docs", ROOT / "tools" / "run_docs.py")
run_docs = importlib.util.module_from_spec(_SPEC)
sys.modules["run_docs"] = run_docs
_SPEC.loader.exec_module(run_docs)

BLOCKS = [block for page in run_docs.pages() for block in run_docs.blocks_of(page)]
COMMANDS = [
    pytest.param(words, id=f"{block.page}:{block.line}:{number}")
    for block in BLOCKS
    for number, words in enumerate(block.commands)
    if words[0] == "timm-asap" or "train.py" in words
]


def test_pages_are_read_from_fence_to_fence(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n```bash\nRUN=runs/x  # a run\ntimm-asap card $RUN --repo \\\n  you/x && pip list\n```\n"
        "<!-- not run: needs\na GPU -->\n"
        "<!-- not run: needs a GPU -->\n\n```\ntorchrun train.py\n```\n"
        "```python\nimport timm\n```\n```\nsome output\n```\n```bash\ntimm-asap list\n```\n"
    )
    first, second, third = run_docs.blocks_of(page, tmp_path)
    assert first.commands == [["timm-asap", "card", "runs/x", "--repo", "you/x"], ["pip", "list"]]
    assert (first.page, first.line, first.why_not) == ("page.md", 4, None)
    assert (second.commands, second.why_not) == ([["torchrun", "train.py"]], "needs a GPU")
    assert third.why_not is None  # a reason holds for one block


def test_flags_that_shorten_give_way_to_those_of_the_page():
    assert run_docs.shortened(["train", "--epochs", "3"]) == ["train", "--epochs", "3", "--warmup-epochs", "0"]
    assert run_docs.shortened(["card", "runs/x"]) == ["card", "runs/x"]


def test_every_block_that_is_run_can_be():
    assert len(BLOCKS) > 15
    runnable = [words for block in BLOCKS if block.why_not is None for words in block.commands]
    assert len(runnable) > 15
    assert {words[0] for words in runnable} <= {"timm-asap", "python", "torchrun"}
    assert all(len(block.why_not) > 8 for block in BLOCKS if block.why_not is not None)


def test_the_run_folders_that_pages_name_are_made_by_pages():
    made = {
        "runs/resnet20_lowres_asap.digits",
        "runs/resnet20_lowres_asap.fashion_mnist",
        "runs/resnet20_lowres.digits",
    }
    for block in BLOCKS:
        for words in block.commands if block.why_not is None else ():
            named = {
                word.removeprefix("local-dir:") for word in words if word.removeprefix("local-dir:").startswith("runs/")
            }
            if "--output" in words:
                made.add(words[words.index("--output") + 1])
            assert named <= made, (block.page, named - made)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_flag_is_one(words):
    if "train.py" in words:
        parse_training([word for word in words[words.index("train.py") + 1 :] if word != "..."])
    elif words[1] == "train":
        parse_training(words[2:])
    else:
        module = importlib.import_module(cli.COMMANDS[words[1]][0])
        options = next((v for k, v in vars(module).items() if k.endswith(("Options", "AdaptConfig"))), EvaluateConfig)
        read_flags(options, words[2:], prog="timm-asap")


@pytest.mark.slow
def test_every_block_runs():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "run_docs.py")], cwd=ROOT, check=False)
    assert done.returncode == 0
