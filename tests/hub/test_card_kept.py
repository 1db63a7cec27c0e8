"""What is written by hand survives: between the marks, in the license, and as a whole card."""

import pytest

from tests.support.card_runs import copy_run, train_run
from timm_asap.cli import main
from timm_asap.errors import UserError
from timm_asap.hub import write_card
from timm_asap.hub.cards.user_sections import PLACES, read_kept

OWN = "## What it is for\n\nSorting buttons.\n\n| a | b |\n|---|---|"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_run(tmp_path_factory.mktemp("kept"), "run", "test_resnet_asap")


@pytest.fixture
def run(trained, tmp_path):
    return copy_run(trained, tmp_path)


def command(*words):
    return main(["card", *map(str, words)])


def edit(run, old, new):
    text = (run / "README.md").read_text()
    assert old in text
    (run / "README.md").write_text(text.replace(old, new, 1))


def fill(run, place, text):
    edit(run, f"<!-- {PLACES[place]} -->", text)


def test_paragraphs_between_marks_survive(run):
    fill(run, "intended use", OWN)
    fill(run, "notes", "Thanks.")
    edit(run, "## Limits", "<!-- keep: ethics -->\nBe kind.\n<!-- /keep -->\n\n## Limits")
    first = write_card(run).read_text()
    assert read_kept(first) == {"intended use": OWN, "notes": "Thanks.", "ethics": "Be kind."}
    assert write_card(run).read_text() == first


def test_other_text_is_made_anew(run):
    before = (run / "README.md").read_text()
    edit(run, "## Results", "## Results\n\n100 %!")
    assert write_card(run).read_text() == before


def test_empty_places_show_nothing(run):
    for name, text in read_kept((run / "README.md").read_text()).items():
        assert text == f"<!-- {PLACES[name]} -->"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<!-- /keep -->", "", "keep 'notes' stands inside 'intended use'"),
        ("<!-- keep: notes -->", "", "closes nothing"),
        ("<!-- keep: notes -->", "<!-- keep: intended use -->", "keep 'intended use' comes twice"),
    ],
)
def test_marks_that_do_not_match_lose_no_text(run, old, new, message):
    edit(run, old, new)
    before = (run / "README.md").read_text()
    with pytest.raises(UserError, match=message):
        write_card(run)
    assert (run / "README.md").read_text() == before


def test_a_mark_without_end(run):
    text = (run / "README.md").read_text().rpartition("<!-- /keep -->")[0]
    (run / "README.md").write_text(text)
    with pytest.raises(UserError, match="keep 'notes' has no end"):
        write_card(run)


def test_a_license_stays_until_another_is_given(run):
    assert "license: cc0-1.0\n" in write_card(run, "cc0-1.0").read_text()
    assert "license: cc0-1.0\n" in write_card(run).read_text()
    assert "license: mit\n" in write_card(run, "mit").read_text()


def test_a_card_by_hand_is_replaced_only_when_asked(run, capsys):
    (run / "README.md").write_text("# My net\n")
    assert command(run) == 2
    assert "was written by hand: --overwrite replaces it" in capsys.readouterr().err
    assert (run / "README.md").read_text() == "# My net\n"
    assert command(run, "--output", run / "card.md") == 0
    assert command(run, "--overwrite") == 0
    assert "# test_resnet_asap.idx" in (run / "README.md").read_text()


def test_elsewhere_the_card_keeps_its_paragraphs_and_shows_no_plots(run, tmp_path):
    fill(run, "notes", "Thanks.")
    output = tmp_path / "cards" / "net.md"
    assert command(run, "--output", output, "--license", "apache-2.0") == 0
    text = output.read_text()
    assert "license: apache-2.0\n" in text
    assert "Thanks." in text
    assert "plots/" not in text
    assert "plots/learning_curves.png" in (run / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--license", "MIT"], "unknown license 'MIT'"),
        (["--output", "{run}"], "is a folder: expected a file"),
        (["--against", "{run}"], "has no evaluation of its weights"),
        (["--licence", "mit"], "unknown flag '--licence'"),
    ],
)
def test_mistakes_are_one_line(run, capsys, words, message):
    before = (run / "README.md").read_text()
    assert command(run, *(word.format(run=run) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (run / "README.md").read_text() == before


def test_no_folder_and_no_run(tmp_path, capsys):
    assert command(tmp_path / "none") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert command(tmp_path) == 2
    assert "holds no finished run: config.yaml is missing" in capsys.readouterr().err
