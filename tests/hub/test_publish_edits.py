"""What others write on the Hub is not undone: merged where it can be, else refused with the difference."""

import json

import pytest
import torch

from tests.support.hub.repository import File
from tests.support.publishable_run import publishable_run, write_evaluation
from timm_asap.commands.publish import main
from timm_asap.errors import UserError
from timm_asap.hub import publish, write_card
from timm_asap.hub.edits import EditedOnHubError, Stamp, merge_sections, outside_sections, stamp

REPO = "you/net"


@pytest.fixture
def run(tmp_path, monkeypatch):
    # that a run is fit, and comes back as it went, is tested elsewhere
    monkeypatch.setattr("timm_asap.hub.bundle.check_run", lambda run: torch.zeros(4, 4))
    monkeypatch.setattr("timm_asap.hub.publishing.verify", lambda *args: None)
    return publishable_run(tmp_path)


@pytest.fixture
def you(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    return hub


@pytest.fixture
def published(you, run):
    publish(run, REPO)
    return you


def on_hub(hub, path="README.md"):
    return hub.repo(REPO).head.files[path].content.decode()


def edit(hub, change, path="README.md"):
    """Somebody commits another version of a file on the Hub."""
    text = on_hub(hub, path)
    changed = change(text)
    assert changed != text
    hub.repo(REPO).commit("refs/heads/main", hub.repo(REPO).head, {path: File(changed.encode())}, "An edit")
    return changed


def fill(section, words):
    opened = f"<!-- keep: {section} -->\n"

    def change(text):
        before, after = text.split(opened)
        return f"{before}{opened}{words}\n<!-- /keep -->{after.split('<!-- /keep -->', 1)[1]}"

    return change


def change_run(run):
    """Something new to publish."""
    (run / "plots" / "accuracy.png").write_bytes(b"\x89PNG\0 another")
    write_evaluation(run)
    record = json.loads((run / "evaluation.json").read_text())
    record["results"][0]["accuracy"] = 60.0
    (run / "evaluation.json").write_text(json.dumps(record))


def fill_here(run, section, words):
    card = run / "README.md"
    card.write_text(fill(section, words)(card.read_text()))


def assert_nothing_was_sent(hub, head):
    assert hub.repo(REPO).head is head


def test_a_section_that_was_edited_there_is_merged_and_comes_here(published, run, capsys):
    edit(published, fill("notes", "## Notes\n\nWritten on the Hub."))
    change_run(run)
    main([str(run), "--repo", REPO])
    assert "Written on the Hub." in on_hub(published)
    assert "60.00" in on_hub(published)
    assert "Written on the Hub." in (run / "README.md").read_text()
    assert "merged    README.md: notes as edited on the Hub" in capsys.readouterr().out
    assert not publish(run, REPO).difference.to_send


def test_sections_of_both_sides_are_merged(published, run):
    edit(published, fill("notes", "Of the Hub."))
    fill_here(run, "intended use", "Of the run.")
    publish(run, REPO)
    assert "Of the Hub." in on_hub(published)
    assert "Of the run." in on_hub(published)


def test_a_section_that_is_new_there_is_merged(published, run):
    edit(
        published,
        lambda text: text.replace("## Citation", "<!-- keep: caveats -->\nMind.\n<!-- /keep -->\n\n## Citation"),
    )
    publish(run, REPO)
    assert "Mind." in on_hub(published)
    assert "Mind." in (run / "README.md").read_text()


def test_a_section_that_was_emptied_there_stays_empty(you, run):
    fill_here(run, "notes", "Old words.")
    publish(run, REPO)
    edit(you, fill("notes", ""))
    publish(run, REPO)
    assert "Old words." not in on_hub(you)


def test_a_section_that_was_changed_here_alone_is_sent(you, run):
    fill_here(run, "notes", "First.")
    publish(run, REPO)
    fill_here(run, "notes", "Second.")
    assert publish(run, REPO).difference.changed == ("README.md",)
    assert "Second." in on_hub(you)
    assert "First." not in on_hub(you)


def test_a_section_that_both_changed_is_refused_with_both_texts(you, run):
    fill_here(run, "notes", "First.")
    publish(run, REPO)
    edit(you, fill("notes", "Theirs."))
    fill_here(run, "notes", "Ours.")
    head = you.repo(REPO).head
    with pytest.raises(EditedOnHubError, match=r"README\.md \(notes, which the run's card changed, too\)") as raised:
        publish(run, REPO)
    assert "-Theirs." in raised.value.difference
    assert "+Ours." in raised.value.difference
    assert_nothing_was_sent(you, head)
    publish(run, REPO, overwrite_card=True)
    assert "Ours." in on_hub(you)


OUTSIDE = {
    "a sentence": lambda text: text.replace("## Limits", "A warning by hand.\n\n## Limits"),
    "the metadata": lambda text: text.replace("tags:\n", "tags:\n- written-by-hand\n"),
    "the marks": lambda text: text.replace("<!-- keep: notes -->\n", ""),
    "half of the marks": lambda text: text.replace("<!-- /keep -->", "", 1),
    "everything": lambda text: "---\nlicense: mit\n---\n# My own words\n",
    "the stamp": lambda text: "\n".join(line for line in text.splitlines() if "timm-asap published" not in line),
    "no text at all": lambda text: "",
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_cannot_be_merged_is_refused_with_the_difference(published, run, capsys, kind):
    edited = edit(published, OUTSIDE[kind])
    change_run(run)
    head = published.repo(REPO).head
    if kind == "no text at all":  # nothing of theirs is lost
        publish(run, REPO)
        return
    with pytest.raises(UserError, match=r"you/net: changed on the Hub .*README\.md") as raised:
        main([str(run), "--repo", REPO])
    assert "\n" not in str(raised.value)
    assert "--overwrite-card" in str(raised.value)
    out = capsys.readouterr().out
    assert "--- README.md (on the Hub)" in out
    assert "+++ README.md (of the run)" in out
    assert_nothing_was_sent(published, head)
    assert on_hub(published) == edited
    main([str(run), "--repo", REPO, "--overwrite-card"])
    assert "60.00" in on_hub(published)


def test_line_ends_and_blank_lines_are_no_edit(published, run):
    edit(published, lambda text: text.replace("\n", "\r\n") + "\n\n")
    change_run(run)
    publish(run, REPO)
    assert "60.00" in on_hub(published)


@pytest.mark.parametrize(
    "path", ["config.json", "evaluation.json", "config.yaml", "plots/accuracy.png", "model.safetensors"]
)
def test_other_files_that_were_changed_there_are_refused(published, run, capsys, path):
    head = published.repo(REPO).head
    published.repo(REPO).commit("refs/heads/main", head, {path: File(b"theirs\n", is_lfs="model" in path)}, "An edit")
    head = published.repo(REPO).head
    with pytest.raises(UserError, match=rf"you/net: changed on the Hub .*{path}; nothing was sent; --overwrite-files"):
        main([str(run), "--repo", REPO])
    out = capsys.readouterr().out
    assert "-theirs" in out or f"{path}: 7 bytes on the Hub" in out
    assert_nothing_was_sent(published, head)
    with pytest.raises(EditedOnHubError):
        publish(run, REPO, overwrite_card=True)  # the card is another matter
    publish(run, REPO, overwrite_files=True)
    assert published.repo(REPO).head.files[path].content != b"theirs\n"


def test_a_file_that_was_deleted_there_comes_again(published, run):
    head = published.repo(REPO).head
    published.repo(REPO).commit("refs/heads/main", head, {"result.json": None}, "Delete")
    assert publish(run, REPO).difference.added == ("result.json",)


def test_a_later_run_replaces_an_earlier_one(published, run, tmp_path):
    """From another folder, which knows nothing of the first: the stamp on the Hub says that nobody edited."""
    edit(published, fill("notes", "Of the Hub."))
    later = publishable_run(tmp_path / "later")
    change_run(later)
    done = publish(later, REPO)
    assert "evaluation.json" in done.difference.changed
    assert "Of the Hub." in on_hub(published)


def test_a_repository_that_was_never_published_to(you, run):
    you.add_repo(REPO, {"README.md": "---\nlicense: mit\n---\n# By hand\n", "config.json": "{}"})
    head = you.repo(REPO).head
    with pytest.raises(EditedOnHubError, match="--overwrite-card replaces what is there and --overwrite-files"):
        publish(run, REPO)
    assert_nothing_was_sent(you, head)
    publish(run, REPO, overwrite_card=True, overwrite_files=True)


def test_the_card_that_the_hub_makes_with_a_repository_is_replaced(you, run):
    you.add_repo(REPO, {"README.md": "---\nlicense: mit\n---\n"})
    publish(run, REPO)
    assert "model-index" in on_hub(you)


def test_a_pull_request_shows_the_difference_itself(published, run):
    edit(published, OUTSIDE["a sentence"])
    change_run(run)
    head = published.repo(REPO).head
    assert publish(run, REPO, create_pr=True).revision == "refs/pr/1"
    assert_nothing_was_sent(published, head)


def test_a_dry_run_says_what_would_be_refused(published, run, capsys):
    edit(published, OUTSIDE["a sentence"])
    head = published.repo(REPO).head
    main([str(run), "--repo", REPO, "--dry-run"])
    out = capsys.readouterr().out
    assert "-A warning by hand." in out
    assert "publishing would be refused: you/net: changed on the Hub" in out
    assert_nothing_was_sent(published, head)


def test_the_difference_shows_a_strangers_text_as_text(published, run):
    edit(published, lambda text: text.replace("## Limits", "\x1b[31mred\n\n## Limits"))
    with pytest.raises(EditedOnHubError) as raised:
        publish(run, REPO)
    assert "\x1b" not in raised.value.difference
    assert r"-\x1b[31mred" in raised.value.difference


# the stamp


def test_a_stamp_is_read_back_and_replaced(tmp_path):
    (tmp_path / "a").write_text("a")
    files = {"plots/--> a.png": tmp_path / "a"}
    card = "# Card\n\n<!-- keep: notes -->\nWords.\n<!-- /keep -->\n"
    stamped = stamp(card, files)
    assert stamp(stamped, files) == stamped
    assert stamped.count("-->") == 3
    read = Stamp.read(stamped)
    assert read.card == outside_sections(stamped) == outside_sections(card)
    assert read.knows("plots/--> a.png", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb")  # sha256
    assert read.knows("plots/--> a.png", "2e65efe2a145dda7ee51d1741299f848e5bf752e")  # git's
    assert not read.knows("plots/--> a.png", "0" * 64)
    assert not read.knows("b", "0" * 64)


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"card": 1}', '{"card": "", "sections": [], "files": 7}'])
def test_a_stamp_that_cannot_be_read_is_none(content):
    assert Stamp.read(f"# Card\n<!-- timm-asap published: {content} -->\n") is None


def test_without_a_stamp_what_only_one_side_filled_in_is_taken():
    hint = "<!-- Anything else; begin with a heading. This text stays. -->"
    assert merge_sections({"notes": hint}, {"notes": "Theirs."}, None) == ({"notes": "Theirs."}, [])
    assert merge_sections({"notes": "Ours."}, {"notes": hint}, None) == ({"notes": "Ours."}, [])
    assert merge_sections({"notes": "Ours."}, {"notes": "Theirs."}, None) == ({"notes": "Ours."}, ["notes"])


def test_the_runs_card_keeps_the_stamp(published, run):
    assert (run / "README.md").read_text() == on_hub(published)
    write_card(run)
    assert Stamp.read((run / "README.md").read_text()) == Stamp.read(on_hub(published))
