"""Broken and partial installations, and unusual ways of importing: each works, or is one clear line."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import timm

from timm_asap._installation import installation_fault

ROOT = Path(__file__).parents[1]

WITHOUT = """
import sys
class Without:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] == {absent!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Without)
"""


def run(program, path=(), words=("-c",)):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)]),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "error::UserWarning",
    }
    command = [sys.executable, *words, textwrap.dedent(program)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("absent", "package"), [("torchvision", "torchvision"), ("PIL", "pillow"), ("timm", "timm")])
def test_a_missing_package_is_one_line(absent, package):
    said = f"timm_asap needs {package}, which is not installed: pip install {package}"
    done = run(WITHOUT.format(absent=absent) + "import timm_asap")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"timm_asap._installation.InstallationError: {said}"
    assert "During handling" not in done.stderr


def test_a_program_says_it_in_one_line_and_ends_with_2(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("import torchvision_of_another_torch")
    (tmp_path / "torchvision_of_another_torch.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "timm_asap", "list", "resnet18"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "does not fit torch" in done.stderr
    assert "operator torchvision::nms does not exist" in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("/x/libtorch_cpu.so: version `GLIBC_2.99' not found"), "cannot be loaded (/x/libtorch_cpu.so"),
        (ImportError("cannot import name 'x' from 'safetensors'", name="safetensors"), "pip install -U safetensors"),
        (ValueError("something of our own"), None),
        (ModuleNotFoundError("No module named 'mine'", name="mine"), None),
    ],
)
def test_what_is_said_of_an_error(error, said):
    line = installation_fault(error)
    assert line is None if said is None else said in line


def test_imports_in_any_order_again_and_in_workers():
    done = run(
        """
        import importlib, multiprocessing, os
        import timm_asap
        import timm  # after timm_asap
        import torch
        from torch.utils.data import DataLoader, Dataset

        class Logits(Dataset):
            def __len__(self):
                return 2
            def __getitem__(self, index):
                import timm_asap
                model = timm.create_model("resnet20_lowres_asap.fashion_mnist", pretrained=True).eval()
                with torch.no_grad():
                    return model(torch.full((1, 1, 32, 32), 0.5))[0]

        alone = Logits()[0]
        for context in ("fork",):
            batch = next(iter(DataLoader(Logits(), 2, num_workers=1, multiprocessing_context=context)))
            assert torch.equal(batch[0], alone) and torch.equal(batch[1], alone), context

        names = timm.list_models("*_asap")
        tags = timm.list_pretrained("resnet50_asap*")
        for module in (timm_asap, timm_asap.zoo, timm):
            importlib.reload(module)
        import timm_asap.zoo.asap_twins, timm_asap.zoo.lowres
        importlib.reload(timm_asap)
        assert timm.list_models("*_asap") == names
        assert timm.list_pretrained("resnet50_asap*") == tags
        assert torch.equal(Logits()[0], alone)
        assert timm_asap.AsapPool2d(3)(torch.rand(1, 3, 8, 8)).shape == (1, 3, 4, 4)

        # as a first import, in a process that was forked before torch ran
        pid = os.fork()
        if pid == 0:
            os._exit(0 if torch.equal(Logits()[0], alone) else 3)
        assert os.waitpid(pid, 0)[1] == 0
        print("done")
        """
    )
    assert done.stdout == "done\n", done.stderr


def test_of_two_copies_of_timm_the_first_is_used(tmp_path):
    (tmp_path / "timm").symlink_to(Path(timm.__file__).parent)
    done = run(
        "import timm_asap, timm\nprint(timm.__file__, timm.create_model('test_resnet_asap').num_classes)", [tmp_path]
    )
    assert done.stdout.split() == [str(tmp_path / "timm" / "__init__.py"), "1000"], done.stderr
