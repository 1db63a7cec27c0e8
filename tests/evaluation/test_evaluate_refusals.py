"""What `timm-asap evaluate` refuses, in one line and before any work."""

import numpy as np
import pytest

from tests.support.tiny_evaluation import evaluate, record_of, write_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "digits_resnet")


def refusal(capsys, *words):
    code = evaluate(*words)
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1), err
    return err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--eps=-1/255"], "eps is a number or fraction from 0 up, such as 8/255, got '-1/255'"),
        (["--eps", "8"], "eps in linf is on the [0, 1] pixel scale: expected at most 1, got '8'; 8 of 255 gray levels"),
        (["--eps", "1/255", "1/255"], "--eps: expected each once"),
        (["--measures", "clean,fog"], "unknown measure 'fog': expected one of aliasing, attacks, clean"),
        (["--corruptions", "fogg"], "unknown corruption 'fogg': closest matches: fog"),
        (["--severities", "0"], "--severities: expected numbers from 1 to 5, each once, got 0"),
        (["--attacks", "pgdd"], "unknown attack 'pgdd'"),
        (["--norm", "l3"], "unknown norm 'l3'"),
        (["--table", "svhn"], "unknown table 'svhn'"),
        (["--limit", "0"], "--limit: expected 1 or more, got 0"),
        (["--steps", "0"], "--steps: expected 1 or more, got 0"),
        (["--seed=-1"], "--seed: expected 0 or more, got -1"),
        (["--step-size=-0.1"], "step size of pgd: expected a number from 0 up"),
        (["--shift-pixels", "0"], "expected a distance in pixels above 0"),
        (["--resume", "--overwrite"], "give only one of them"),
        (["--batchsize", "4"], "unknown flag '--batchsize': closest matches: --batch-size"),
        (["--device", "quantum"], "--device quantum cannot be used"),
        (["--reference", "nowhere"], "there is no nowhere: expected what timm-asap evaluate wrote"),
        (["--dataset", "digitz"], "unknown data set 'digitz'"),
        (["--dataset", "imagenet-c"], "imagenet-c needs --data-dir, the folder that holds it"),
    ],
)
def test_a_mistake_is_told_in_a_line(words, told, model_folder, tmp_path, capsys):
    words = words if "--dataset" in words else ["--dataset", "digits", *words]
    assert told in refusal(capsys, model_folder, *words, "--output", tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("resnet51", "unknown model 'resnet51': closest matches: resnet51q"),
        ("resnet20_lowres", "resnet20_lowres has no pretrained weights; with weights: resnet20_lowres.fashion_mnist"),
        ("runs/none", "there is no folder runs/none: expected a run folder"),
    ],
)
def test_a_model_that_is_none(model, told, tmp_path, capsys):
    assert told in refusal(capsys, model, "--dataset", "digits", "--output", tmp_path / "e")


def test_no_model_at_all(capsys):
    assert "expected one model or more" in refusal(capsys, "--dataset", "digits")


def test_a_folder_without_a_model(tmp_path, capsys):
    assert "holds no trained model" in refusal(capsys, tmp_path, "--dataset", "digits")


def test_classes_that_do_not_match(tmp_path, capsys):
    clothes = write_model(tmp_path / "clothes", label_names=["coat", "bag", *(f"shirt {n}" for n in range(8))])
    told = refusal(capsys, clothes, "--dataset", "digits")
    assert "the data have classes that the model does not know (0, 1, 2, ...); it knows coat, bag, shirt 0" in told
    four = write_model(tmp_path / "four", label_names=["a", "b", "c", "d"])
    assert "the data have 10 classes (0, 1, 2, ...) and the model has 4" in refusal(capsys, four, "--dataset", "digits")


def test_two_models_of_one_name(model_folder, tmp_path, capsys):
    other = write_model(tmp_path / "digits_resnet")
    told = refusal(capsys, model_folder, other, "--dataset", "digits", "--output", tmp_path / "e")
    assert "two models would write to" in told


def test_a_missing_package(model_folder, tmp_path, capsys, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("timm_asap.adversarial.config.version", missing)
    for words in (["--attacks", "autoattack"], ["--check-masking"]):
        told = refusal(capsys, model_folder, "--dataset", "digits", *words, "--output", tmp_path / "e")
        assert "pip install 'timm_asap[attacks]'" in told
    assert not (tmp_path / "e").exists()


def test_a_table_that_is_for_smaller_images(tmp_path, capsys):
    large = write_model(tmp_path / "large", label_names=[str(n) for n in range(10)], input_size=(3, 96, 96))
    told = refusal(capsys, large, "--dataset", "digits", "--table", "cifar")
    assert "--table cifar is for images of up to 64 pixels, the model takes 96 x 96" in told


def test_images_that_are_too_small_to_corrupt(tmp_path, capsys):
    small = write_model(tmp_path / "small", input_size=(1, 24, 24))
    told = "expected images of at least 28 x 28 to corrupt, got 24 x 24"
    assert told in refusal(capsys, small, "--dataset", "digits", "--measures", "clean,corruptions")
    assert told in refusal(capsys, small, "--dataset", "digits", "--corruptions", "fog")


def test_what_nobody_asked_for_is_left_out_where_the_images_are_too_small(tmp_path, capsys):
    small = write_model(tmp_path / "small", input_size=(1, 24, 24))
    few = ["--limit", "10", "--limit-attacks", "4", "--limit-aliasing", "2", "--attacks", "fgsm", "--eps", "1/255"]
    assert evaluate(small, "--dataset", "digits", *few, "--no-plots") == 0
    assert "adapted: no corruptions: they need 28 pixels a side, the model takes 24\n" in capsys.readouterr().out
    measures = {result["measure"] for result in record_of(small)["results"]}
    assert measures == {"clean", "attack", "shift", "aliasing"}


def test_a_folder_that_holds_some_corruptions_is_measured_on_those(tmp_path, capsys):
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    cifar = write_model(tmp_path / "m", label_names=names, input_size=(3, 32, 32))
    np.save(tmp_path / "labels.npy", np.arange(50) % 10)
    np.save(tmp_path / "fog.npy", np.full((50, 32, 32, 3), 99, dtype=np.uint8))
    words = [cifar, "--dataset", "cifar10-c", "--data-dir", tmp_path, "--no-plots"]
    assert evaluate(*words) == 0
    assert "does not hold are left out: gaussian_noise, " in capsys.readouterr().out
    assert [result["id"] for result in record_of(cifar)["results"]] == [f"corruption/fog/{n}" for n in range(1, 6)]
    assert "is missing" in refusal(capsys, *words, "--corruptions", "fog,snow", "--overwrite")


def test_images_that_are_no_bytes(tmp_path, capsys):
    cifar = write_model(tmp_path / "m", label_names=[f"c{n}" for n in range(10)], input_size=(3, 32, 32))
    np.save(tmp_path / "labels.npy", np.zeros(10, dtype=np.int64))
    np.save(tmp_path / "fog.npy", np.full((10, 32, 32, 3), 1.5, dtype=np.float32))
    words = ["--dataset", "cifar10-c", "--data-dir", tmp_path, "--corruptions", "fog"]
    assert "holds float32 of shape (10, 32, 32, 3): expected uint8" in refusal(capsys, cifar, *words)
