"""The pictures: what they draw, that no two labels overlap, and that they reach the disk in full or not at all."""

import importlib
import itertools
import sys

import matplotlib as mpl
import pytest
import torch
from matplotlib.image import imread

from timm_asap.evaluation.aliasing import map_aliasing
from timm_asap.evaluation.plots import (
    SheetImage,
    draw_aliasing,
    draw_attacks,
    draw_contact_sheet,
    draw_corruptions,
    draw_shift,
    draw_spectra,
    draw_summary,
    save_plots,
    save_png,
)
from timm_asap.figures import styled
from timm_asap.training.display import draw_learning_curves, learning_curves

CORRUPTIONS = ("gaussian_noise", "elastic_transform", "frost", "jpeg_compression", "fog")


def with_interval(accuracy):
    return {"accuracy": accuracy, "interval": [accuracy - 2, accuracy + 2], "images": 1000}


def aliasing(site, status, x, stride=2):
    result = map_aliasing(x, (stride, stride))
    return {
        "measure": "aliasing",
        "site": site,
        "status": status,
        "above_nyquist": result.above_nyquist.mean().item(),
        "folded": result.folded.mean().item(),
        "spectrum": {"frequency": result.frequency.tolist(), "power": result.power.mean(0).tolist()},
    }


def record(name, clean=90.0, loss_per_severity=5.0):
    results = [{"measure": "clean", "id": "clean", **with_interval(clean)}]
    for corruption in CORRUPTIONS:
        for severity in (5, 1, 2, 3, 4):
            reason = "procedural textures" if corruption == "frost" else None
            accuracy = clean - loss_per_severity * severity
            row = {"measure": "corruption", "corruption": corruption, "severity": severity, "table": "cifar"}
            results.append({**row, "approximate": reason, **with_interval(accuracy)})
    for attack, norm, steps, restarts, eps in (
        ("pgd", "linf", 20, 1, (8 / 255, 0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 1.0)),
        ("pgd", "l2", 20, 5, (0.25, 0.5)),
        ("autoattack", "linf", None, None, (1 / 255,)),
    ):
        row = {"measure": "attack", "attack": attack, "norm": norm, "steps": steps, "restarts": restarts}
        results += [{**row, "eps": e, **with_interval(clean / (1 + 100 * e))} for e in eps]
    for kind, pixels in itertools.product(("circular", "crop"), (4.0, 0.5, 1.0, 2.0)):
        results.append({"measure": "shift", "kind": kind, "pixels": pixels, "consistency": 99.0 - pixels})
    generator = torch.Generator().manual_seed(0)
    results += [
        aliasing("stem.0", "left", torch.randn(2, 3, 32, 32, generator=generator), stride=4),
        aliasing("stages.1.blocks.0.conv_with_a_long_name.conv", "converted", torch.ones(2, 3, 16, 16)),
        aliasing("layer4", "converted", torch.zeros(2, 3, 7, 7)),
    ]
    return {"model": {"name": name}, "results": results}


@pytest.fixture(scope="module")
def two():
    return [record("resnet50_asap.a_long_recipe_in1k"), record("runs/plain", 80.0, 10.0)]


FIGURES = (draw_corruptions, draw_attacks, draw_shift, draw_aliasing, draw_spectra, draw_summary)


@styled
def texts_of(figure):
    """Every text that is drawn, and its extent in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    beyond = set()  # labels of ticks that exist, and are outside the limits
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        drawn = axis._update_ticks()
        spare = [tick for tick in (*axis.majorTicks, *axis.minorTicks) if tick not in drawn]
        beyond |= {label for tick in spare for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(mpl.text.Text) if text not in beyond]
    return [
        (text.get_text(), text.get_window_extent(renderer).padded(-1))
        for text in texts
        if text.get_text().strip() and text.get_visible()
    ]


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("models", [1, 2, 5])
def test_no_two_labels_overlap_and_none_is_cut(draw, models, two):
    records = [*two, *(record(f"model_{i}") for i in range(3))][:models]
    figure = draw(records)
    texts = texts_of(figure)
    assert len(texts) > 10
    for (one, here), (other, there) in itertools.combinations(texts, 2):
        assert not here.overlaps(there), (one, other)
    for text, extent in texts:
        assert figure.bbox.padded(1).containsx(extent.x0), text
        assert figure.bbox.padded(1).containsx(extent.x1), text
        assert figure.bbox.padded(1).containsy(extent.y0), text
        assert figure.bbox.padded(1).containsy(extent.y1), text


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def curve(figure, panel, series):
    line = figure.axes[panel].get_lines()[series]
    return dict(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_corruption_curves(two):
    figure = draw_corruptions(two)
    assert titles(figure) == [
        "mean of these 5",
        "gaussian noise",
        "elastic transform",
        "frost *",
        "jpeg compression",
        "fog",
    ]
    assert curve(figure, 1, 0) == {0: 90, 1: 85, 2: 80, 3: 75, 4: 70, 5: 65}
    assert curve(figure, 0, 1) == {0: 80, 1: 70, 2: 60, 3: 50, 4: 40, 5: 30}
    assert "cifar parameters" in figure.get_supxlabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "resnet50_asap.a_long_recipe_in1k (1,000 images)",
        "plain (1,000 images)",
    ]


def test_the_mean_takes_only_severities_that_are_complete():
    some = record("m")
    dropped = {"measure": "corruption", "corruption": "fog", "severity": 3}
    some["results"] = [r for r in some["results"] if not dropped.items() <= r.items()]
    figure = draw_corruptions([some])
    assert list(curve(figure, 0, 0)) == [0, 1, 2, 4, 5]
    assert list(curve(figure, 5, 0)) == [0, 1, 2, 4, 5]
    some["results"] = [r for r in some["results"] if r.get("corruption") in (None, "fog")]
    assert titles(draw_corruptions([some])) == ["fog"]


def test_attack_curves(two):
    figure = draw_attacks(two)
    assert titles(figure) == ["PGD, 20 steps", "PGD, 20 steps, 5 restarts", "AutoAttack"]
    assert curve(figure, 0, 0) == pytest.approx(
        {255 * e: 90 / (1 + 100 * e) for e in (0, *(k / 510 for k in (1, 2, 4, 8, 16)))}
    )
    assert list(curve(figure, 0, 0)) == sorted(curve(figure, 0, 0))
    assert curve(figure, 1, 1) == pytest.approx({0: 80, 0.25: 80 / 26, 0.5: 80 / 51})
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0", "0.5", "1", "2", "4", "8"]
    steps = [figure.axes[0].transData.transform((x, 0))[0] for x in (0.5, 1, 2, 4, 8)]
    assert [b - a for a, b in itertools.pairwise(steps)] == pytest.approx([steps[1] - steps[0]] * 4)


def test_an_attack_curve_is_of_one_set_of_images():
    """Clean accuracy of 1,000 images must not open a curve of the 50 that were attacked."""
    some = record("m")
    some["results"] = [{**r, "images": 50} if r["measure"] == "attack" else r for r in some["results"]]
    figure = draw_attacks([some])
    assert 0 not in curve(figure, 0, 0)
    assert figure.legends[0].get_texts()[0].get_text() == "m (50 images)"
    some["summary"] = {"attacked_clean": {"accuracy": 84.0, "interval": [71.5, 91.7], "images": 50}}
    assert curve(draw_attacks([some]), 0, 0)[0] == 84.0
    same = draw_attacks([record("m")])
    assert curve(same, 0, 0)[0] == 90.0
    assert same.legends[0].get_texts()[0].get_text() == "m (1,000 images)"


def test_a_corruption_curve_is_of_one_set_of_images():
    some = record("m")
    some["results"][0]["images"] = 10_000
    assert 0 not in curve(draw_corruptions([some]), 1, 0)


def test_a_summary_is_a_bar_for_each_kind_of_measurement(two):
    figure = draw_summary(two)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:5] == [
        "clean accuracy",
        "noise (1 corruption)",
        "weather (2 corruptions)",
        "digital (2 corruptions)",
        "AutoAttack, eps 1/255",
    ]
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths[:3] == pytest.approx([90, 75, 75])  # means over the severities 1 to 5
    assert labels[5:] == ["same prediction, circular shift by 1 px", "same prediction, crop shift by 1 px"]
    assert len(widths) == 2 * len(labels)


def test_many_rows_of_a_contact_sheet_fit_a_screen():
    cell = SheetImage(torch.zeros(1, 32, 32), "bag", True)
    rows = [(f"corruption_{i}", [cell] * 5) for i in range(15)]
    figure = draw_contact_sheet(rows, [f"severity {i}" for i in range(1, 6)], clean=cell, title="title")
    width, height = figure.get_size_inches() * figure.dpi
    assert width < 1100
    assert height < 900
    texts = texts_of(figure)
    assert sum(text == "✓ bag" for text, _ in texts) == 76
    for (one, here), (other, there) in itertools.combinations(texts, 2):
        assert not here.overlaps(there), (one, other)


def test_shift_and_aliasing(two):
    assert curve(draw_shift(two), 1, 0) == {0.5: 98.5, 1: 98, 2: 97, 4: 95}
    figure = draw_aliasing(two)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "stem.0"
    filled, hollow = figure.axes[0].get_lines()[:2]
    assert len(filled.get_xdata()) == 2
    assert hollow.get_xdata() == pytest.approx([two[0]["results"][-3]["above_nyquist"]])
    assert hollow.get_markerfacecolor() == "white"
    assert min(filled.get_xdata()) > 0  # an exact zero has its place on the logarithmic axis
    spectra = draw_spectra(two)
    assert spectra.axes[0].get_xlim() == (0, 4)
    assert titles(spectra)[1].startswith("...")


def test_models_are_told_apart_without_colors(two):
    lines = draw_shift([*two, *(record(f"model_{i}") for i in range(3))]).axes[0].get_lines()
    assert len({line.get_marker() for line in lines}) == 5


def test_two_of_one_name_are_numbered():
    legend = draw_shift([record("a/m"), record("b/m"), record("hf-hub:u/other")]).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["m (1)", "m (2)", "other"]


def test_contact_sheet():
    gray, color = torch.zeros(1, 32, 32, dtype=torch.uint8), torch.ones(3, 32, 32)
    rows = [
        ("gaussian_noise", [SheetImage(gray, "ankle boot", True), SheetImage(color, "a very long class name", False)]),
        ("jpeg_compression", [SheetImage(color, "bag", False)]),
    ]
    figure = draw_contact_sheet(
        rows, ["severity 1", "severity 5"], clean=SheetImage(color, "bag", True), title="$model$"
    )
    texts = texts_of(figure)
    assert not figure._suptitle.get_parse_math()  # a $ in a name is a $
    words = [text for text, _ in texts]
    assert {"✓ ankle boot", "✗ a very long …", "✗ bag", "✓ bag", "gaussian\nnoise", "$model$", "clean"} <= set(words)
    for (one, here), (other, there) in itertools.combinations(texts, 2):
        assert not here.overlaps(there), (one, other)
    images = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert [image.shape for image in images] == [(32, 32, 3)] * 4
    assert [int(image.max()) for image in images] == [255, 0, 255, 255]


def test_plots_are_files_and_only_of_what_was_measured(two, tmp_path):
    written = save_plots(two, tmp_path / "plots")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(path.name for path in written)
    assert {path.name for path in written} == {
        "corruptions.png",
        "attacks.png",
        "shift.png",
        "aliasing.png",
        "spectra.png",
        "summary.png",
    }
    assert imread(written[0]).shape[1] == 1040
    clean_only = {"model": {"name": "m"}, "results": two[0]["results"][:1]}
    assert save_plots([clean_only], tmp_path / "none") == []
    shift_only = {"model": {"name": "m"}, "results": [r for r in two[0]["results"] if r["measure"] == "shift"]}
    some = save_plots([clean_only, shift_only], tmp_path / "some")
    assert [path.name for path in some] == ["shift.png", "summary.png"]


def test_a_failed_save_leaves_the_old_file(two, tmp_path, monkeypatch):
    path = save_png(draw_shift(two), tmp_path / "shift.png")
    before, figure = path.read_bytes(), draw_shift(two[:1])
    monkeypatch.setattr(figure, "savefig", lambda aside, **kwargs: aside.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_png(figure, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["shift.png"]


def test_the_same_record_gives_the_same_bytes_whatever_the_users_style(two, tmp_path):
    usual = save_png(draw_shift(two), tmp_path / "usual.png").read_bytes()
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "axes.titlesize": 40}):
        assert save_png(draw_shift(two), tmp_path / "own.png").read_bytes() == usual


def test_nothing_is_drawn_with_pyplot(two, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it raises
    with pytest.raises(ImportError):
        importlib.import_module("matplotlib.pyplot")
    for draw in FIGURES:
        draw(two).canvas.draw()


def epoch(number, **more):
    return {
        "epoch": number,
        "step": 10 * number,
        "lr": 0.1 / number,
        "train_loss": 2.0 / number,
        "train_accuracy": 50.0 + number,
        "images_per_s": 100.0,
        "test_loss": 3.0 / number,
        "test_accuracy": 40.0 + number,
        "seconds": 1.0,
        **more,
    }


def test_learning_curves(tmp_path):
    records = [epoch(1), epoch(2, pgd_accuracy=20.0), epoch(3, pgd_accuracy=None, test_loss=float("nan"))]
    figure = draw_learning_curves(records)
    labels = [[line.get_label() for line in axis.get_lines()] for axis in figure.axes]
    assert labels[:2] == [["train", "test"], ["train", "test", "under PGD"]]
    assert curve(figure, 0, 1) == {1: 3.0, 2: 1.5}
    assert curve(figure, 1, 2) == {2: 20.0}
    assert curve(figure, 2, 0) == pytest.approx({1: 0.1, 2: 0.05, 3: 0.1 / 3})
    assert figure.axes[0].get_yscale() == "linear"
    path = learning_curves(records, tmp_path / "plots" / "learning_curves.png")
    assert imread(path).shape[:2] == (320, 1050)


def test_curves_of_an_adaptation_show_agreement_and_no_accuracy():
    line = {"lr": 0.1, "train_loss": 1.5, "train_agreement": 40.0, "agreement": 30.0, "kl": 0.5}
    figure = draw_learning_curves([{"epoch": 1, **line}, {"epoch": 2, **line, "confident_agreement": 60.0, "kl": 0.4}])
    assert [axis.get_title() for axis in figure.axes] == [
        "training loss",
        "agreement (percent)",
        "divergence from plain (KL)",
        "learning rate",
    ]
    labels = {line.get_label() for line in figure.axes[1].get_lines()}
    assert labels == {"train", "held out", "held out, plain confident"}
    assert curve(figure, 2, 0) == {1: 0.5, 2: 0.4}


def test_learning_curves_of_one_and_of_many_epochs():
    figure = draw_learning_curves([epoch(1, val_loss=2.5, val_accuracy=41.0)])
    figure.canvas.draw()
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["train", "test", "val"]
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1]
    figure = draw_learning_curves([epoch(i, test_loss=1000 / i**2) for i in range(1, 201)])
    assert figure.axes[0].get_yscale() == "log"
    figure.canvas.draw()
    assert {"0.1", "1", "10", "100"} <= {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert figure.axes[0].get_lines()[0].get_marker() == ""
