"""What cannot be run is told in one line, before anything is written."""

import pytest

from tests.support.tiny_run import main, tiny_flags, write_images


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "idx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "resnet20_lowres_asp"},
            "unknown model 'resnet20_lowres_asp': closest matches: resnet20_lowres_asap",
        ),
        ({"model": "resnet10t.c3_in2k"}, "unknown tag of resnet10t 'c3_in2k': expected one of c3_in1k"),
        ({"model": "local-dir:nowhere"}, "model local-dir:nowhere: no such folder"),
        ({"dataset": "idxx"}, "unknown data set 'idxx': expected one of arrow, csv, digits, fashion_mnist, idx"),
        ({"data_dir": "nowhere"}, "nowhere"),
        ({"opt": "sgdd"}, "unknown optimizer 'sgdd': closest matches: sgd"),
        ({"model": "test_vit", "asap_window": "flc"}, "--asap-window: test_vit is no alias-free model; leave it out"),
        (
            {"model": "resnet18", "asap_stem": "true"},
            "--asap-stem: resnet18 is no alias-free model; use --model resnet18_",
        ),
        ({"model": "resnet20_lowres_asap", "asap_window": "hann"}, "unknown window 'hann': expected one of asap, flc"),
        ({"model_kwargs": '{"depth": 3}'}, "unexpected keyword argument 'depth'"),
        ({"model_kwargs": '{"num_classes": 3}'}, "the data set decides: leave num_classes out of --model-kwargs"),
        ({"model_kwargs": '{"features_only": true}'}, "gives no scores for 4 classes"),
        ({"batch_size": 65}, "--batch-size: expected at most the 64 training images, got 65"),
        ({"epochs": "x"}, "--epochs: "),
        ({"mixup": 0.2, "adversarial": "fgsm", "eps": "8/255"}, "--mixup and --cutmix blend labels, --adversarial"),
        ({"random_erasing": 0.2, "adversarial": "fgsm", "eps": "8/255"}, "--random-erasing leaves the pixel range"),
        ({"adversarial": "fgsm"}, "--adversarial needs --eps, such as 8/255"),
        ({"adversarial": "fgsm", "eps": "8"}, "8 of 255 gray levels is 8/255"),
        ({"adversarial": "fgsm", "eps": "-1/255"}, "eps is a number or fraction from 0 up"),
        ({"adversarial": "fgsm", "eps": "8/255", "attack_steps": 3}, "fgsm has no steps to set, got 3"),
        ({"adversarial": "deepfool", "eps": "8/255"}, "unknown adversarial training 'deepfool'"),
        ({"eps": "8/255"}, "--eps: only adversarial training has it; add --adversarial"),
        ({"adversarial": "free", "eps": "8/255", "accumulate": 2}, "--accumulate splits a step, --adversarial free"),
        ({"adversarial": "pgd", "eps": "8/255", "teacher": "test_resnet"}, "--teacher and --adversarial both replace"),
        ({"accumulate": 3}, "--accumulate divides the batch: expected a divisor of --batch-size 16, got 3"),
        ({"early_stop": 2}, "--early-stop: data set idx has no validation split"),
        ({"val_share": 1}, "--val-share: expected in [0, 1), got 1"),
        ({"val_share": 0.01}, "cannot be held out with every class on both sides"),
        ({"ema": 1}, "--ema: expected in [0, 1), got 1"),
        ({"opt_kwargs": '{"nose": 1}'}, "--opt sgd with --opt-kwargs {'nose': 1} cannot be made"),
        ({"sched_kwargs": '{"decay": 1}'}, "--sched cosine with --sched-kwargs {'decay': 1}"),
        ({"steps_per_epoch": 5}, "--steps-per-epoch: expected at most the 4 batches"),
        ({"bce_threshold": 0.2}, "--bce-threshold is for --loss bce"),
        ({"tracker": "mlflow"}, "unknown tracker 'mlflow': expected one of tensorboard, trackio, wandb"),
        ({"tracker": "wandb"}, "--tracker wandb: the package is not installed; run: pip install wandb"),
        ({"image_size": 64}, "--image-size, --train-image-size and --crop-pct are for large images"),
        ({"drop_rate": 0.1}, "--drop-rate and --model-kwargs both set drop_rate: give only one"),
        ({"teacher": "test_resnet2"}, "unknown teacher 'test_resnet2': closest matches: test_resnet"),
        ({"num_classes": 9}, "takes no --num-classes: leave it out"),
        ({"mixup": 0.2, "batch_size": 15}, "--mixup and --cutmix mix pairs: expected an even number"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_writes_nothing(changes, message, data_dir, tmp_path, capsys):
    assert main(tiny_flags(**{"data_dir": data_dir, "output": tmp_path / "run", **changes})) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("train.py: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
