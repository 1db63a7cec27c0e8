"""Image folders as people have them: the folders decide which split and class an image is of, file names never."""

import gc
import os
import shutil
import unicodedata

import pytest

from tests.support.image_files import numbered_png
from timm_asap.data import load_dataset
from timm_asap.data.class_folders import read_class_folders
from timm_asap.errors import UserError


def tree(root, *folders, images=2):
    """Folders of images; a word with a suffix is a file of no content."""
    for name in folders:
        path = root / name
        if path.suffix and not path.name.startswith(" "):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            continue
        path.mkdir(parents=True, exist_ok=True)
        for number in range(images):
            (path / f"{number}.png").write_bytes(b"")
    return root


def found(root, **asked):
    """Classes, and how many images of each there are in each split."""
    read = read_class_folders(root, **asked)
    counts = {}
    for split, (paths, labels) in read.splits.items():
        assert len(set(paths)) == len(paths) == len(labels)
        assert all(os.path.isfile(path) for path in paths)
        counts[split] = [labels.count(label) for label in range(len(read.label_names))]
    return read.label_names, counts


PAIR = ("cat", "dog")


def split_tree(root, *splits):
    return tree(root, *(f"{split}/{name}" for split in splits for name in PAIR))


def test_words_in_file_names_decide_nothing(tmp_path):
    for name in PAIR:
        for number in range(20):
            word = ("", " on a train", "test_", " eval", "-val-")[number % 5]
            path = tmp_path / name / f"{word}{name} {number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(numbered_png(number))
    assert found(tmp_path) == (PAIR, {"train": [20, 20]})
    data = load_dataset("imagefolder", tmp_path)
    assert (len(data.train), len(data.test)) == (32, 8)
    assert data.notes == ()


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "test"), ("train", "test")),
        (("Train", "Test"), ("train", "test")),
        (("TRAIN", "VALID", "TEST"), ("train", "validation", "test")),
        (("training", "testing"), ("train", "test")),
        (("train", "holdout"), ("train", "holdout")),
        (("train", "hold_out"), ("train", "holdout")),
        (("train", "eval"), ("train", "test")),
        (("seg_train/seg_train", "seg_test/seg_test"), ("train", "test")),
        (("training_set/training_set", "test_set/test_set"), ("train", "test")),
        (("TrainSet", "ValSet", "TestImages"), ("train", "validation", "test")),
        (("train2017", "val2017"), ("train", "validation")),
        (("asl_alphabet_train", "asl_alphabet_test"), ("train", "test")),
        (("pets/pets/Training", "pets/pets/Validation"), ("train", "validation")),
        (("fold1", "fold2", "fold3"), ("fold1", "fold2", "fold3")),
        (("train", "training"), ("train", "training")),
        (("Train", "TRAIN"), ("Train", "TRAIN")),
        (("train", "test", "eval"), ("train", "test", "eval")),
        (("test",), ("test",)),
    ],
    ids="+".join,
)
def test_split_folders_are_known_by_name(tmp_path, folders, splits):
    names, counts = found(split_tree(tmp_path, *folders))
    assert names == PAIR
    assert counts == {split: [2, 2] for split in splits}


@pytest.mark.parametrize(
    "classes",
    [
        ("bus and train", "test", "train"),
        ("bus", "train"),
        ("train/images", "bus/images", "car/images"),
        ("__background__", "dog"),
        ("cats/black", "cats/white", "dogs/black"),
        ("a?b", "a*b", "axb", "my[1]"),
        ("-dash", " space", "new\nline", "\u00fc\u00f1\u4e2d", "100%"),
        ("n02084071", "n02121808"),
        ("0", "1", "10", "2"),
        ("Cat", "cat"),
        ("training data for dogs", "dogs"),
    ],
    ids=lambda classes: "+".join(classes),
)
def test_folders_that_are_classes(tmp_path, classes):
    names, counts = found(tree(tmp_path, *classes))
    expected = sorted({name.split("/")[0] for name in classes})
    assert names == tuple(expected)
    assert counts == {"train": [2 * sum(c.split("/")[0] == name for c in classes) for name in expected]}


def test_class_names_like_splits_below_splits(tmp_path):
    names = ("__background__", "bullet_train", "test", "test_tube", "train", "train_interior", "val")
    tree(tmp_path, *(f"{split}/{name}" for split in ("train", "test") for name in names))
    assert found(tmp_path) == (names, {"train": [2] * 7, "test": [2] * 7})
    read = read_class_folders(tmp_path)
    for split, (paths, _) in read.splits.items():
        assert all(os.path.relpath(path, tmp_path).startswith(f"{split}{os.sep}") for path in paths)


def test_wrappers_are_looked_through(tmp_path):
    tree(tmp_path, "archive/PetImages/Cat", "archive/PetImages/Dog", "archive/readme.txt")
    assert found(tmp_path) == (("Cat", "Dog"), {"train": [2, 2]})
    assert read_class_folders(tmp_path).places == {"train": "archive/PetImages"}


TINY = ("train/n01/images", "train/n02/images", "val/images", "test/images", "wnids.txt", "train/n01/n01_boxes.txt")


def tiny_imagenet(root, *labels):
    """Tiny ImageNet as it unpacks; `labels` are those of the images of its validation split."""
    tree(root, *TINY)
    rows = [f"{number}.png\t{name}\t0\t0\t62\t62\n" for number, name in enumerate(labels)]
    (root / "val/val_annotations.txt").write_text("".join(rows))
    return root


def test_tiny_imagenet(tmp_path):
    read = read_class_folders(tiny_imagenet(tmp_path, "n02", "n01"))
    assert found(tmp_path) == (("n01", "n02"), {"train": [2, 2], "validation": [1, 1]})
    paths, labels = read.splits["validation"]
    assert [os.path.relpath(path, tmp_path) for path in paths] == ["val/images/0.png", "val/images/1.png"]
    assert labels == [1, 0]
    assert read.places["validation"] == "val/val_annotations.txt"
    assert "not read: images of test in none of the class folders, 2 (test)" in read.notes
    assert "not read: files that are no images, 2 (2 .txt)" in read.notes


def test_the_validation_split_of_tiny_imagenet_alone(tmp_path):
    root = tiny_imagenet(tmp_path, "n07", "n03") / "val"
    assert found(root) == (("n03", "n07"), {"train": [1, 1]})
    assert read_class_folders(root).notes == ()


def test_a_list_of_labels_that_leaves_images_out_is_said(tmp_path):
    read = read_class_folders(tiny_imagenet(tmp_path, "n02"))
    assert found(tmp_path)[1]["validation"] == [0, 1]
    assert "not read: images that val_annotations.txt does not name, 1 (images/1.png)" in read.notes


def test_a_list_of_labels_with_a_class_of_its_own_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"val_annotations\.txt names the class n09, of which train has no folder"):
        read_class_folders(tiny_imagenet(tmp_path, "n02", "n09"))


def test_a_list_about_other_files_is_none(tmp_path):
    tiny_imagenet(tmp_path)
    (tmp_path / "val/val_annotations.txt").write_text("other.png\tn01\n\nno tab\n")
    assert found(tmp_path)[1] == {"train": [2, 2]}
    assert "not read: images of validation in none of the class folders, 2 (val)" in read_class_folders(tmp_path).notes


def test_a_list_that_is_no_text(tmp_path):
    tiny_imagenet(tmp_path)
    (tmp_path / "val/val_annotations.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read: expected lines of a file, a tab, a class"):
        read_class_folders(tmp_path)


def test_kaggles_further_folders_are_counted_and_not_read(tmp_path):
    split_tree(tmp_path, "seg_train/seg_train", "seg_test/seg_test")
    tree(tmp_path, "seg_pred/seg_pred", images=3)
    read = read_class_folders(tmp_path)
    assert list(read.splits) == ["test", "train"]
    assert read.notes == ("not read: images outside the class folders, 3 (seg_pred/seg_pred/0.png)",)


def test_an_unlabeled_test_folder_is_said_and_a_fifth_held_out(tmp_path):
    split_tree(tmp_path, "train")
    tree(tmp_path, "test", images=5)
    assert found(tmp_path) == (PAIR, {"train": [2, 2]})
    assert read_class_folders(tmp_path).notes == ("not read: images of test in none of the class folders, 5 (test)",)


def test_stray_files_hide_nothing_and_are_counted(tmp_path):
    tree(
        tmp_path,
        *PAIR,
        "stray.png",
        "cat/notes.txt",
        "dog/photo.HEIC",
        "labels.csv",
        "dog/.hidden.png",
        ".cache2/a.png",
    )
    assert found(tmp_path) == (PAIR, {"train": [2, 2]})
    assert set(read_class_folders(tmp_path).notes) == {
        "not read: images outside the class folders, 1 (stray.png)",
        "not read: files that are no images, 3 (1 .csv, 1 .heic, 1 .txt)",
        "not read: hidden images, 1 (dog/.hidden.png)",
        "not read: hidden folders, 1 (.cache2)",
    }


def test_what_systems_leave_behind_is_neither_read_nor_counted(tmp_path):
    tree(tmp_path, *PAIR, "cat/Thumbs.db", "cat/desktop.ini", "cat/._0.png", "._cat.png", "__MACOSX/cat/._0.png")
    tree(tmp_path, "dog/.ipynb_checkpoints/0-checkpoint.png", "__MACOSX/dog/1.png", "@eaDir/cat/1.png")
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"")
    assert found(tmp_path) == (PAIR, {"train": [2, 2]})
    assert read_class_folders(tmp_path).notes == ()


def test_suffixes_in_any_case(tmp_path):
    suffixes = ("jpg", "JPG", "Jpeg", "JPEG", "png", "PNG", "webp", "bmp", "tif", "TIFF", "gif", "ppm", "jfif")
    tree(tmp_path, *(f"{name}/{number}.{suffix}" for name in PAIR for number, suffix in enumerate(suffixes)))
    assert found(tmp_path) == (PAIR, {"train": [len(suffixes)] * 2})


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
class TestLinks:
    def test_folders_and_files_are_followed(self, tmp_path):
        store = tree(tmp_path / "store", "a", "b", "c/deep", "d")
        root = tmp_path / "data"
        (root / "test").mkdir(parents=True)
        os.symlink(store, root / "train", target_is_directory=True)
        for name in "abcd":
            (root / "test" / name).mkdir()
            tree(root / "test" / name, "other", images=1)
        os.symlink(store / "a" / "0.png", root / "test" / "b" / "linked.png")
        assert found(root) == (("a", "b", "c", "d"), {"train": [2] * 4, "test": [1, 2, 1, 1]})
        (note,) = read_class_folders(root).notes
        assert note.startswith("1 images of test are images of train, too") or note.startswith("1 images of train are")

    def test_whole_splits_that_are_the_same_are_said(self, tmp_path):
        store = tree(tmp_path / "store", *PAIR)
        (tmp_path / "data").mkdir()
        for split in ("train", "test"):
            os.symlink(store, tmp_path / "data" / split, target_is_directory=True)
        assert any("4 images of" in note for note in read_class_folders(tmp_path / "data").notes)

    def test_loops_and_broken_links_end(self, tmp_path):
        tree(tmp_path, *PAIR)
        os.symlink("..", tmp_path / "cat" / "up")
        os.symlink("self.png", tmp_path / "cat" / "self.png")
        os.symlink("nowhere.png", tmp_path / "dog" / "gone.png")
        assert found(tmp_path) == (PAIR, {"train": [2, 2]})
        assert set(read_class_folders(tmp_path).notes) == {
            "not read: links that lead back to a folder above them, 1 (cat/up)",
            "not read: broken links, 2 (cat/self.png)",
        }

    def test_the_folder_itself_is_a_link(self, tmp_path):
        tree(tmp_path / "my[1]", *PAIR)
        os.symlink(tmp_path / "my[1]", tmp_path / "link", target_is_directory=True)
        assert found(tmp_path / "link") == (PAIR, {"train": [2, 2]})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_not_opened(tmp_path):
    tree(tmp_path, *PAIR)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert found(tmp_path) == (PAIR, {"train": [2, 2]})
    assert "not read: images that are no regular files, 1 (cat/pipe.png)" in read_class_folders(tmp_path).notes


def test_names_that_are_no_utf8(tmp_path):
    tree(tmp_path, *PAIR)
    try:
        open(os.fsencode(tmp_path) + b"/cat/caf\xe9.png", "wb").close()
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    assert found(tmp_path) == (PAIR, {"train": [2, 2]})
    assert read_class_folders(tmp_path).notes == ("not read: images whose names are not UTF-8, 1 (cat/caf?.png)",)
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(UserError, match=r"the name of the folder \S*caf\? is not UTF-8: rename it"):
        read_class_folders(tmp_path)


def test_the_same_letters_written_in_another_way_and_in_another_case(tmp_path):
    composed = "caf\u00e9"
    tree(tmp_path, f"train/{composed}", "train/Dog", f"test/{unicodedata.normalize('NFD', composed)}", "test/dog")
    assert found(tmp_path) == (("Dog", composed), {"train": [2, 2], "test": [2, 2]})


def test_empty_folders_are_no_classes(tmp_path):
    split_tree(tmp_path, "train", "test")
    (tmp_path / "train" / "emu").mkdir()
    assert found(tmp_path)[0] == PAIR
    assert read_class_folders(tmp_path).notes == ("not read: folders without images, 1 (train/emu)",)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/steam", "train/electric", "bus", "car"), "holds train beside bus, car: splits or classes"),
        (("cat/train", "cat/test", "dog/train"), r"cat holds test, train, the splits below the classes"),
        (("a/b/train/x", "a/b/valid/x", "test/test"), r"a/b holds train, valid, the splits below the classes"),
        (("train", "test"), "holds test, train, and no folders of classes in them: expected test/CLASS"),
        (("train/cat", "train/dog", "test/cat", "test/emu"), "test holds emu, of which train has no folder"),
        ((), "holds no images: expected one folder of images per class"),
    ],
)
def test_what_is_not_clear_is_asked(tmp_path, folders, message):
    with pytest.raises(UserError, match=message) as raised:
        read_class_folders(tree(tmp_path, *folders))
    assert "\n" not in str(raised.value)


def test_a_split_by_any_name_can_be_asked_for(tmp_path):
    split_tree(tmp_path, "train", "extra")
    assert found(tmp_path) == (PAIR, {"train": [2, 2]})
    assert "not read: images outside the class folders, 4 (extra/cat/0.png)" in read_class_folders(tmp_path).notes
    assert found(tmp_path, test_split="Extra") == (PAIR, {"train": [2, 2], "Extra": [2, 2]})
    shutil.rmtree(tmp_path / "train")
    tree(tmp_path, "bus", "fold1/cat", "fold1/dog")
    names, counts = found(tmp_path, train_split="fold1", test_split="extra")
    assert (names, counts) == (PAIR, {"fold1": [2, 2], "extra": [2, 2]})


def test_files_come_in_the_order_of_their_paths(tmp_path):
    tree(tmp_path, "cat/b.png", "cat/a/2.png", "cat/a/10.png", "cat/c/1.png", "dog/1.png")
    paths, _ = read_class_folders(tmp_path).splits["train"]
    assert [os.path.relpath(path, tmp_path).replace(os.sep, "/") for path in paths] == [
        "cat/a/10.png", "cat/a/2.png", "cat/b.png", "cat/c/1.png", "dog/1.png"
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_folder_that_may_not_be_read(tmp_path):
    tree(tmp_path, *PAIR)
    (tmp_path / "dog").chmod(0)
    with pytest.raises(UserError, match=r"cannot read the folder \S*dog: Permission denied"):
        read_class_folders(tmp_path)
    (tmp_path / "dog").chmod(0o755)


# as a data set


def numbered_tree(root, *folders, images=3, side=32):
    for place, name in enumerate(folders):
        (root / name).mkdir(parents=True)
        for number in range(images):
            (root / name / f"{number}.png").write_bytes(numbered_png(10 * place + number, side))
    return root


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
def test_splits_come_as_they_lie(tmp_path, streaming, by_name):
    root = numbered_tree(
        tmp_path / "my[1] pets?", "Train/cat", "Train/dog", "VALID/cat", "VALID/dog", "Test/cat", "Test/dog"
    )
    (root / "Test" / "stray.png").write_bytes(numbered_png(1))
    data = load_dataset(*((str(root),) if by_name else ("imagefolder", root)), streaming=streaming)
    sizes = [split.len_or_none if streaming else len(split) for split in (data.train, data.val, data.test)]
    assert sizes == [6, 6, 6]
    assert (data.label_names, data.val_name, data.test_name) == (PAIR, "validation", "test")
    assert data.notes == (
        "folders: test in Test, train in Train, validation in VALID",
        "not read: images outside the class folders, 1 (Test/stray.png)",
    )
    assert data.source.startswith(("images of the folder my[1] pets?", "the folder my[1] pets?"))


def test_a_stream_of_folders_is_mixed_and_goes_on_where_it_stopped(tmp_path):
    from timm_asap.data import build_loader

    root = numbered_tree(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", images=40)
    data = load_dataset("imagefolder", root, streaming=True, shuffle_buffer=10)
    options = {"training": True, "steps_per_epoch": 8, "seed": 3}
    loader = build_loader(data.train, data, 8, **options)
    labels = []
    for step, (_, batch) in enumerate(loader):
        labels += batch.tolist()
        if step == 3:
            state = loader.state_dict()
    # classes lie one after the other in the folder, and a buffer of ten mixes nothing
    assert 8 < sum(labels[:32]) < 24
    again = build_loader(data.train, data, 8, **options)
    again.load_state_dict(state)
    assert [label for _, batch in again for label in batch.tolist()] == labels[32:]


def test_one_class_is_none_to_train_on(tmp_path):
    with pytest.raises(UserError, match=r"has one class folder \(cat\): expected one folder of images per class, two"):
        load_dataset("imagefolder", numbered_tree(tmp_path, "cat"))


def test_a_folder_to_measure_on_is_not_trained_on(tmp_path):
    numbered_tree(tmp_path, "test/cat", "test/dog")
    with pytest.raises(UserError, match="no split is called train among test: name one with --train-split"):
        load_dataset("imagefolder", tmp_path)
    assert len(load_dataset("imagefolder", tmp_path, measure_only=True).test) == 6
    assert load_dataset("imagefolder", tmp_path, train_split="test").test_name == "held-out 2 images, seed 0"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # `datasets` leaves the csv open
def test_folders_with_a_file_of_labels_go_by_it(tmp_path):
    numbered_tree(tmp_path, "train/a", "test/a", images=4)
    for split in ("train", "test"):
        lines = ["file_name,label", *(f"a/{number}.png,{'xy'[number % 2]}" for number in range(4))]
        (tmp_path / split / "metadata.csv").write_text("\n".join(lines) + "\n")
    data = load_dataset("imagefolder", tmp_path)
    assert (data.label_names, len(data.train), len(data.test)) == (("x", "y"), 4, 4)
    gc.collect()
    # a file of that name which is something else is one more file that is no image
    numbered_tree(tmp_path / "other", "cat", "dog", images=10)
    (tmp_path / "other" / "metadata.csv").write_text("photographer,year\nme,2020\n")
    assert load_dataset("imagefolder", tmp_path / "other").label_names == PAIR
