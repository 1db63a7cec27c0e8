"""Names of older versions go on working, and say what they are called now."""

import importlib
import inspect
import pickle

import pytest

from tests.support.image_files import numbered_png
from timm_asap import data
from timm_asap.command_line import renamed_flags
from timm_asap.training.config import TrainConfig, read_recipe


@pytest.fixture
def folder(tmp_path):
    """Class folders of large images, of which one is damaged."""
    for number in range(10):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(numbered_png(number, side=80) if number else b"no image")
    return tmp_path / "images"


def test_load_dataset_by_the_older_keyword(folder):
    with pytest.warns(DeprecationWarning, match="skip_corrupt is called skip_unreadable now") as warned:
        split = data.load_dataset("imagefolder", folder, skip_corrupt=True).train
    assert warned[0].filename == __file__
    assert split.skip_unreadable
    with pytest.warns(DeprecationWarning, match="skip_corrupt is called skip_unreadable now"):
        assert split.skip_corrupt
    assert pickle.loads(pickle.dumps(split)).skip_unreadable  # as for a worker process


def test_both_names_at_once_are_a_mistake(folder):
    with pytest.raises(TypeError, match="got skip_unreadable and its older name skip_corrupt"):
        data.load_dataset("imagefolder", folder, skip_corrupt=True, skip_unreadable=False)


def test_a_split_by_the_older_keyword(folder):
    split = data.load_dataset("imagefolder", folder, skip_unreadable=True).train
    with pytest.warns(DeprecationWarning, match="skip_corrupt"):
        again = data.LazySplit(split.dataset, split.image_key, split.label_key, split.labels, skip_corrupt=True)
    assert again.skip_unreadable


def test_a_run_by_the_older_keyword():
    with pytest.warns(DeprecationWarning, match="skip_corrupt"):
        config = TrainConfig(dataset="imagefolder", skip_corrupt=True)
    assert config.skip_unreadable
    assert "skip_unreadable" in inspect.signature(TrainConfig).parameters


def test_the_older_name_of_a_function():
    with pytest.warns(DeprecationWarning, match=r"timm_asap\.data\.count_corrupt is called count_unreadable now"):
        assert data.count_corrupt is data.count_unreadable


def test_the_older_flag_and_the_key_of_older_recipes(tmp_path, capsys):
    words = ["--skip-corrupt", "--no-skip-corrupt", "--skip-corrupt=True", "--epochs", "1"]
    new = ["--skip-unreadable", "--no-skip-unreadable", "--skip-unreadable=True", "--epochs", "1"]
    assert renamed_flags(words) == new
    assert "DeprecationWarning: --skip-corrupt is called --skip-unreadable now" in capsys.readouterr().err
    (tmp_path / "recipe.yaml").write_text("skip_corrupt: true\n")
    assert read_recipe(tmp_path / "recipe.yaml") == {"skip_unreadable": True}


def test_a_loader_by_the_fields_of_its_pixels():
    digits = data.load_dataset("digits")
    new = data.build_loader(digits.test, digits, 8, training=False, pixels=data.PixelConfig(mean=(0.0,), std=(1.0,)))
    with pytest.warns(DeprecationWarning, match="mean, std of build_loader are fields of pixels now") as warned:
        old = data.build_loader(digits.test, digits, 8, training=False, mean=(0.0,), std=(1.0,))
    assert warned[0].filename == __file__
    assert next(iter(old))[0].equal(next(iter(new))[0])
    with pytest.raises(TypeError, match="unexpected keyword argument 'maen'"):
        data.build_loader(digits.test, digits, 8, training=False, maen=(0.0,))


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("timm_asap.evaluation.aliasing", "SiteAliasing", "LayerAliasing"),
        ("timm_asap.evaluation.aliasing", "sampling_sites", "sampled_layers"),
        ("timm_asap.healing", "RefitSite", "RefitLayer"),
    ],
)
def test_older_names_of_reports_on_layers(module, old, new):
    found = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is called {new} now"):
        assert getattr(found, old) is getattr(found, new)
