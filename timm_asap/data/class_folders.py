"""Which folders are splits and which are classes. The folders decide, the names of files never.

The rules are those of torchvision's `ImageFolder`: the first level of folders under a split is the class, whatever lies
below it belongs to it, and links are followed. Above that, folders called train, val, test or the like are splits. One
list of labels is read beside them, that of Tiny ImageNet: the images of its validation split lie in one folder.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from timm_asap.data.folder_tree import Folder, LeftOut, one_line, scan
from timm_asap.errors import UserError

_WORDS = {
    "train": ("train", "training", "trainval"),
    "validation": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
    "holdout": ("holdout", "heldout"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
# Beside those words they say nothing: train_images, TestSet, val2017.
_FILLERS = frozenset(
    (
        *("set", "sets", "data", "dataset", "split", "splits", "folder", "dir", "files", "file"),
        *("image", "images", "img", "imgs", "pic", "pics", "picture", "pictures", "photo", "photos"),
    )
)
_GLUED = re.compile(rf"({'|'.join(_SPLIT_OF)})({'|'.join(_FILLERS)})")
_HELD_OUT = re.compile(r"\bh[eo]ld[\W_]*out\b")
_FOLD = re.compile(r"(fold|split|cv)[\W_]*\d+")


@dataclass(frozen=True)
class ClassFolders:
    """Splits of images in class folders.

    Args:
        label_names: The classes, in alphabetical order.
        splits: By name, the paths of the images and their class numbers.
        places: By name of the split, its folder, or its list of labels, from the one that was asked for on.
        notes: What was not read, a line for each kind.
    """

    label_names: tuple[str, ...]
    splits: dict[str, tuple[list[str], list[int]]]
    places: dict[str, str]
    notes: tuple[str, ...]


def read_class_folders(
    root: Path,
    train_split: str | None = None,
    test_split: str | None = None,
    scanned: tuple[Folder, LeftOut] | None = None,
) -> ClassFolders:
    """The images of a folder, by split and class.

    Args:
        root: The folder.
        train_split: Name of the folder to train on, whose folders are the classes; by default one called train or the
            like, or without splits the only one.
        test_split: Name of a folder that is a split, too, whatever it is called.
        scanned: What `scan` gave of it, where that is known.

    Raises:
        UserError: There are no class folders, or which folders are splits is not clear.
    """
    tree, left_out = scan(root) if scanned is None else scanned
    if not tree.total:
        found = f", it holds {left_out.other_files}" if left_out.other_files else ""
        raise UserError(f"{_shown(tree)} holds no images: expected one folder of images per class{found}")
    asked = [name for name in (train_split, test_split) if name is not None]
    base, splits = _find_splits(tree, asked)
    train = next((name for name in (train_split, "train") if name in splits), None)
    roots = {name: _unwrap(folder, set()) for name, folder in splits.items() if train in (None, name)}
    lists = {name: found for name, folder in splits.items() if (found := _find_list(roots.get(name, folder)))}
    class_names = sorted(
        {_normal(child.name) for name, folder in roots.items() if name not in lists for child in folder.with_images}
        | {label for name in roots if name in lists for label in lists[name][1].values()}
    )
    if not class_names:
        where = _shown(roots[train] if train else base)
        raise UserError(f"{where} has no class subfolders: expected one folder of images per class, two or more")
    known = set(class_names)
    roots = {name: roots[name] if name in roots else _unwrap(folder, known) for name, folder in splits.items()}

    read: dict[str, tuple[list[str], list[int]]] = {}
    files: dict[str, set[int]] = {}
    places = {name: _place(folder) for name, folder in roots.items()}
    seen: set[tuple[str, ...]] = set()
    for name, folder in roots.items():
        _refuse_inner_splits(folder)
        if name in lists:
            file, label_of = lists[name]
            read[name], files[name] = _read_list(folder, file, label_of, class_names, train, left_out)
            places[name] = one_line("/".join((*folder.parts, file)))
            seen.update(inner.parts for inner in folder.walk())
            continue
        children = _match(folder, class_names, train)
        if not children:
            left_out.add(f"images of {name} in none of the class folders", _place(folder), folder.total)
            seen.update(inner.parts for inner in folder.walk())
            continue
        paths: list[str] = []
        labels: list[int] = []
        files[name] = set()
        for label, child in children:
            for path, identity in child.files():
                paths.append(path)
                labels.append(label)
                files[name].add(identity)
            seen.update(inner.parts for inner in child.walk())
        read[name] = (paths, labels)
    for folder in tree.walk():
        if folder.images and folder.parts not in seen:
            left_out.add(
                "images outside the class folders", "/".join((*folder.parts, folder.images[0])), len(folder.images)
            )
    notes = (*left_out.notes(), *_shared(files))
    return ClassFolders(tuple(class_names), read, {name: places[name] for name in read}, notes)


def split_folders(tree: Folder) -> list[tuple[str, list[str]]]:
    """The splits that the first folders say by their names, with their paths; else the whole as train."""
    names = _split_names(tree.with_images)
    splits = _by_name([folder for folder in tree.with_images if folder.name in names], names)
    return [(name, [folder.path]) for name, folder in splits.items()] or [("train", [tree.path])]


def _find_splits(tree: Folder, asked: Sequence[str]) -> tuple[Folder, dict[str, Folder]]:
    """The folder that holds the splits, and those; without any, the folder of the classes as the split train.

    Folders that hold nothing but one other are looked through: archives often unpack to dataset/dataset/train.
    """
    base = tree
    while True:
        if splits := _splits_in(base, asked):
            return base, splits
        inner = base.with_images
        if len(inner) != 1 or not inner[0].with_images:
            break
        base = inner[0]
    base = base if len(base.with_images) > 1 else tree
    return base, {"train": base}


def _splits_in(base: Folder, asked: Sequence[str]) -> dict[str, Folder]:
    """The splits among the folders of a folder, by name; none where those are classes.

    Raises:
        UserError: They may be either.
    """
    split_of = _split_names(base.with_images)
    by_name = {name.casefold(): name for name in asked}
    for folder in base.with_images:
        for called in (folder.name.casefold(), split_of.get(folder.name)):
            if called in by_name:
                split_of[folder.name] = by_name[called]
    splits = [folder for folder in base.with_images if folder.name in split_of]
    others = [folder for folder in base.with_images if folder.name not in split_of]
    if not splits:
        return {}
    names = {split_of[folder.name] for folder in splits}
    with_classes = [folder for folder in splits if len(_unwrap(folder, set()).with_images) > 1]
    if not names & set(asked):
        if not with_classes and others:
            return {}  # classes, of which one is called train
        if not any(folder.with_images for folder in splits):
            if len(splits) == 1:
                return {}
            raise UserError(
                f"{_shown(base)} holds {_few(splits)}, and no folders of classes in them: expected "
                f"{one_line(splits[0].name)}/CLASS, a folder of images per class"
            )
        if len(names) == 1 and others:
            classes = {_normal(child.name) for folder in with_classes for child in _unwrap(folder, set()).with_images}
            if not any(classes & {_normal(child.name) for child in folder.with_images} for folder in others):
                _refuse_inner_splits(base)
                flag = "train" if "train" in names else "test"
                raise UserError(
                    f"{_shown(base)} holds {_few(splits)} beside {_few(others)}: splits or classes? --{flag}-split "
                    f"{one_line(splits[0].name)} says that it is a split; rename it where it is a class"
                )
    return _by_name(splits, split_of)


def _by_name(splits: list[Folder], split_of: dict[str, str]) -> dict[str, Folder]:
    """The splits. Of several of one name, one that is called so has it, and the others go by their own."""
    named: dict[str, Folder] = {}
    for folder in splits:
        name = split_of[folder.name]
        rivals = [other.name for other in splits if split_of[other.name] == name]
        called_so = [other for other in rivals if other == name] or [r for r in rivals if r.casefold() == name]
        chosen = rivals if len(rivals) == 1 else called_so if len(called_so) == 1 else []
        named[name if folder.name in chosen else folder.name] = folder
    return named


def _split_names(folders: list[Folder]) -> dict[str, str]:
    """By name of a folder, the split that its name says: train for Train, TRAINING, train_images, train2017.

    Two folders may have words in common beside that: seg_train and seg_test.
    """
    words = {folder.name: _split_and_rest(folder.name) for folder in folders}
    found = {}
    for name, (split, rest) in words.items():
        pair = any(other != split and other and same == rest for other, same in words.values())
        if split is not None and (not rest or pair):
            found[name] = split
        elif _FOLD.fullmatch(name.casefold()):
            found[name] = name
    return found


def _split_and_rest(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The split that a name says with its first or last word, and the words beside it that are no fillers."""
    text = unicodedata.normalize("NFKC", name)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).casefold()
    words = re.findall(r"[^\W\d_]+", _HELD_OUT.sub("holdout", text))
    words = [_GLUED.sub(r"\1", word) if _GLUED.fullmatch(word) else word for word in words]
    words = [word for word in words if word not in _FILLERS]
    places = [place for place, word in enumerate(words) if word in _SPLIT_OF]
    if len(places) != 1 or places[0] not in (0, len(words) - 1):
        return None, ()
    return _SPLIT_OF[words.pop(places[0])], tuple(words)


def _unwrap(folder: Folder, known: set[str]) -> Folder:
    """The folder that holds the classes: the one below, as long as there is only one and it is no class itself."""
    inner = folder
    while len(inner.with_images) == 1:
        (child,) = inner.with_images
        if not child.with_images or _normal(child.name) in known:
            break
        inner = child
    return inner if known or len(inner.with_images) > 1 else folder


def _refuse_inner_splits(base: Folder) -> None:
    """Splits below what would be classes: their test images would be trained on."""
    for folder in base.with_images:
        inner = _unwrap(folder, set())
        names = {name: split for name in inner.children if (split := _split_and_rest(name))[0] and not split[1]}
        inside = [child for child in inner.with_images if child.name in names]
        if len({names[child.name][0] for child in inside}) > 1:
            raise UserError(
                f"{_shown(inner)} holds {_few(inside)}, the splits below the classes: expected them above, as in "
                f"{one_line(inside[0].name)}/CLASS; give --data-dir {_shown(inner)} if these are the splits"
            )


def _match(folder: Folder, class_names: list[str], train: str | None) -> list[tuple[int, Folder]]:
    """The class folders of a split, with their numbers; none if not one of them is a class.

    Raises:
        UserError: Some are classes and some are not.
    """
    exact = {name: label for label, name in enumerate(class_names)}
    in_any_case = {name.casefold(): label for label, name in enumerate(class_names)}
    found: dict[int, Folder] = {}
    strange = []
    for child in folder.with_images:
        name = _normal(child.name)
        label = exact.get(name, in_any_case.get(name.casefold()))
        if label is None or label in found:
            strange.append(child)
        else:
            found[label] = child
    if found and strange:
        raise UserError(
            f"{_shown(folder)} holds {_few(strange)}, of which {train or 'another split'} has no folder of that name: "
            "expected the same classes; rename or remove it"
        )
    return sorted(found.items())


def _find_list(folder: Folder) -> tuple[str, dict[str, str]] | None:
    """A list of labels as Tiny ImageNet has it for the images of one folder: val/val_annotations.txt beside val/images.

    Each line is the name of a file, a tab and its class; the corners of a box may follow.

    Returns:
        The name of the list, and the class of each file; None where there is none, or it is about other files.

    Raises:
        UserError: If it cannot be read.
    """
    places = [folder, *folder.with_images]
    if len(places) > 2 or (len(places) == 2 and places[1].with_images):
        return None
    found = sorted(path for path in Path(folder.path).glob("*_annotations.txt") if path.is_file())
    if len(found) != 1:
        return None
    try:
        lines = found[0].read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{one_line(str(found[0]))} cannot be read: expected lines of a file, a tab, a class"
        ) from error
    rows = [line.split("\t") for line in lines]
    label_of = {row[0].strip(): _normal(row[1].strip()) for row in rows if len(row) > 1 and row[1].strip()}
    if not any(name in label_of for place in places for name in place.images):
        return None
    return found[0].name, label_of


def _read_list(
    folder: Folder, file: str, label_of: dict[str, str], class_names: list[str], train: str | None, left_out: LeftOut
) -> tuple[tuple[list[str], list[int]], set[int]]:
    """Paths and class numbers of the images that a list names, and what files they are.

    Raises:
        UserError: If it names a class that the split to train on has not.
    """
    number = {name: label for label, name in enumerate(class_names)}
    paths, labels, identities = [], [], set()
    for path, identity in folder.files():
        name = label_of.get(os.path.basename(path))
        if name is None:
            left_out.add(f"images that {file} does not name", path.removeprefix(f"{folder.path}{os.sep}"))
            continue
        if name not in number:
            raise UserError(
                f"{_shown(folder)}: {one_line(file)} names the class {one_line(name)}, of which "
                f"{train or 'another split'} has no folder: expected the same classes"
            )
        paths.append(path)
        labels.append(number[name])
        identities.add(identity)
    left_out.remove_file(file)
    return (paths, labels), identities


def _shared(files: dict[str, set[int]]) -> Iterable[str]:
    """Images that are in two splits: the same files, by links."""
    names = list(files)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            if count := len(files[name] & files[other]):
                yield f"{count:,} images of {name} are images of {other}, too: the same files, by links"


def _normal(name: str) -> str:
    """A class's name: macOS may write the same letters in another way."""
    return unicodedata.normalize("NFC", name)


def _place(folder: Folder) -> str:
    return one_line("/".join(folder.parts)) or "."


def _shown(folder: Folder) -> str:
    return one_line(folder.path)


def _few(folders: list[Folder], limit: int = 3) -> str:
    names = [one_line(folder.name) for folder in folders]
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
