"""What is published is what the run wrote: regular files of its folder, none with a token, everything else named."""

import os
import struct
import zlib

import pytest

from tests.support.publishable_run import publishable_run
from timm_asap.commands.publish import main
from timm_asap.errors import UserError
from timm_asap.hub import publish, write_card
from timm_asap.hub.cards.privacy import refuse_token_in_file

REPO = "you/net"
TOKEN = "hf_" + "aBcDeFgHiJ" * 3 + "kLmN"


@pytest.fixture
def run(tmp_path):
    return publishable_run(tmp_path)


@pytest.fixture
def you(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    return hub


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("the owner's alone")
    return path


def published(hub):
    return hub.repo(REPO).head.files


def test_what_the_run_did_not_write_is_named_and_left_out(you, run, secret, capsys):
    (run / "plots" / "more").mkdir()
    (run / "plots" / "data.csv").write_text("1")
    (run / "plots" / "link.png").symlink_to(secret)
    (run / "plots" / "good.svg").write_text("<svg/>")
    (run / "notes.txt").write_text("mine")
    (run / ".env").write_text("PASSWORD=1")
    os.mkfifo(run / "plots" / "pipe.png")
    (run / "evil\x1b[31m.txt").write_text("x")
    main([str(run), "--repo", REPO])
    out = capsys.readouterr().out
    files = published(you)
    assert "plots/good.svg" in files
    for name, why in {
        ".env": "no file of a run",
        "notes.txt": "no file of a run",
        "plots/data.csv": "no picture",
        "plots/link.png": "a link",
        "plots/more": "no picture",
        "plots/pipe.png": "no file",
    }.items():
        assert name not in files
        assert f"left out  {name} ({why})\n" in out
    assert r"left out  evil\x1b[31m.txt (no file of a run)" in out
    assert "\x1b" not in out
    assert not [name for name, file in files.items() if b"the owner's alone" in file.content]
    assert "link.png" not in files["README.md"].content.decode()
    assert "checkpoints" not in out


def test_a_folder_of_plots_that_is_a_link_is_not_followed(you, run, tmp_path, secret):
    (run / "plots").rename(tmp_path / "elsewhere")
    (run / "plots").symlink_to(tmp_path / "elsewhere")
    done = publish(run, REPO)
    assert "plots (a link)" in done.left_out
    assert not [name for name in published(you) if name.startswith("plots")]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "config.yaml", "README.md", "comparison.json"])
def test_a_file_that_the_card_shows_and_a_link_is_refused(you, run, tmp_path, name):
    (tmp_path / name).write_bytes((run / name).read_bytes() if (run / name).exists() else b"{}")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} is a link: expected a file of the run itself"):
        publish(run, REPO)
    assert you.requests == []


def test_a_link_to_the_run_is_a_run(you, run, tmp_path):
    (tmp_path / "latest").symlink_to(run)
    assert publish(tmp_path / "latest", REPO).commit == you.repo(REPO).head.oid


def test_a_link_that_takes_a_files_place_meanwhile_is_not_followed(you, run, secret, monkeypatch):
    """Between the look at a file and its copy."""
    open_file = os.open

    def swap_and_open(path, *args, **kwargs):
        if path == run / "result.json":
            path.unlink()
            path.symlink_to(secret)
        return open_file(path, *args, **kwargs)

    monkeypatch.setattr("timm_asap.hub.bundle.os.open", swap_and_open)
    with pytest.raises(UserError, match="cannot be published"):
        publish(run, REPO)
    assert (run / "result.json").is_symlink()
    assert you.repositories == {}


def test_a_dry_run_writes_through_no_link(you, run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keep.txt").write_text("keep")
    (run / "publish").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="publish is a link"):
        publish(run, REPO, dry_run=True)
    assert (tmp_path / "mine" / "keep.txt").read_text() == "keep"


# tokens


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + b"".join(chunks) + chunk(b"IEND", b"")


PICTURES = {
    "svg": ("a.svg", f"<svg><!-- {TOKEN} --></svg>".encode()),
    "svg with references": ("a.svg", "".join(f"&#{ord(char)};" for char in TOKEN).encode()),
    "svg in UTF-16": ("a.svg", f"<svg>{TOKEN}</svg>".encode("utf-16")),
    "png with a text": ("a.png", png(chunk(b"tEXt", b"Comment\0" + TOKEN.encode()))),
    "png with a compressed text": ("a.png", png(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(TOKEN.encode())))),
    "png with another": (
        "a.png",
        png(chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(f"a note {TOKEN}".encode(), 9))),
    ),
    "png with bytes behind it": ("a.png", png() + TOKEN.encode()),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_token_in_a_picture_is_refused(you, run, kind):
    name, content = PICTURES[kind]
    (run / "plots" / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"plots/{name} would hold an access token") as raised:
        publish(run, REPO)
    assert TOKEN not in str(raised.value)
    assert you.requests == []


def test_the_users_own_token_is_found_whatever_it_looks_like(you, run):
    (run / "plots" / "a.png").write_bytes(png(chunk(b"tEXt", b"Comment\0" + you.write_token.encode())))
    with pytest.raises(UserError, match=r"plots/a\.png would hold an access token"):
        publish(run, REPO)


def test_a_token_in_the_weights_is_refused(you, run):
    import safetensors.torch

    from tests.support.publishable_run import write_evaluation

    state = safetensors.torch.load((run / "model.safetensors").read_bytes())
    (run / "model.safetensors").write_bytes(safetensors.torch.save(state, {"command": f"train.py --token {TOKEN}"}))
    write_evaluation(run)
    with pytest.raises(UserError, match=r"model\.safetensors would hold an access token"):
        publish(run, REPO)


def test_what_only_looks_a_little_like_a_token_passes(tmp_path):
    for content in (
        b"",
        b"hf_",
        b"hf_short",
        b"x" * 100 + b"_hf_" + b"a" * 40,
        b"hf_" * 50,
        os.urandom(100_000),
        png(),
    ):
        (tmp_path / "file").write_bytes(content)
        refuse_token_in_file("file", tmp_path / "file")


# a card that was edited by hand


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("license: mit\n", "license: [mit\n", r"README\.md: its metadata cannot be read as YAML \(.* in line \d+\)"),
        ("license: mit\n", "license: mit: x\n", r"README\.md: its metadata cannot be read as YAML \(.* in line \d+\)"),
        ("license: mit\n", "license: mit\n\ttags: a\n", r"README\.md: its metadata cannot be read as YAML"),
        ("license: mit\n", "license: &a *a\n", r"README\.md: its metadata cannot be read as YAML"),
        ("license: mit\n", "license: [mit]\n", r"README\.md: its license: expected an identifier such as mit"),
        ("library_name: timm\n", "", None),
    ],
)
def test_a_mistake_in_the_metadata_is_a_line(you, run, old, new, line):
    card = run / "README.md"
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new))
    if line is None:
        write_card(run)
        return
    for call in (lambda: write_card(run), lambda: publish(run, REPO)):
        with pytest.raises(UserError, match=line) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert card.read_text() == text.replace(old, new)
    assert you.requests == []
