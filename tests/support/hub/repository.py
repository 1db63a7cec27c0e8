"""What a Hub keeps: repositories of files, with commits, branches and tags."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from tests.support.hub.messages import HubError

#: Names that the Hub's default .gitattributes gives to LFS, or most of them.
LFS_SUFFIXES = [
    *(".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"),
    *(".bin", ".ckpt", ".h5", ".joblib", ".model", ".msgpack", ".onnx", ".pb", ".pickle", ".pkl", ".pt", ".pth"),
    *(".arrow", ".npy", ".npz", ".parquet", ".safetensors", ".tflite", ".wasm"),
]

_commit_numbers = itertools.count(1)


@dataclass(frozen=True)
class File:
    """A file's content, stored as a git blob or as an LFS object behind a pointer."""

    content: bytes
    is_lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git itself stores for an LFS file."""
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(self.content)}")
        return "".join(f"{line}\n" for line in lines).encode()

    @cached_property
    def blob_id(self) -> str:
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id


def is_lfs(path: str, sample: bytes, size: int) -> bool:
    """Whether the Hub would keep this file as an LFS object: by its name, its size, or because it is no text."""
    return PurePosixPath(path).suffix in LFS_SUFFIXES or size > 10_000_000 or b"\0" in sample


@dataclass(frozen=True)
class Commit:
    """A state of all files, and what came before it."""

    oid: str
    title: str
    description: str
    files: Mapping[str, File]
    parent: Commit | None
    date: str

    def listing(self, folder: str = "", recursive: bool = True) -> list[dict[str, Any]]:
        """Files and folders below a folder, in the form of the tree route; EntryNotFound if there is none."""
        prefix = f"{folder}/" if folder else ""
        items: dict[str, dict[str, Any]] = {}
        for path in sorted(p for p in self.files if p.startswith(prefix)):
            for parent in reversed(PurePosixPath(path).parents[:-1]):
                if str(parent).startswith(prefix):
                    items.setdefault(str(parent), _folder_item(str(parent)))
            items[path] = file_item(path, self.files[path])
        if folder and not items:
            raise HubError.entry_not_found(self, folder)
        return [item for path, item in items.items() if recursive or "/" not in path.removeprefix(prefix)]

    def history(self) -> Iterator[Commit]:
        """This commit and those before it, newest first."""
        commit: Commit | None = self
        while commit:
            yield commit
            commit = commit.parent


def file_item(path: str, file: File) -> dict[str, Any]:
    """A file in the form of the tree and paths-info routes."""
    item = {"type": "file", "path": path, "oid": file.blob_id, "size": len(file.content)}
    if file.is_lfs:
        item["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
    return item


def _folder_item(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


@dataclass
class Repository:
    """A repository with one empty branch, `main`; as on the Hub, its first commit holds `.gitattributes`.

    Args:
        kind: "models", "datasets" or "spaces".
        name: "namespace/name".
        private: Others do not see it.
        gated: Others see it, but its files only if `readers` names them.
        closed: Numbers of the pull requests that are no longer open.
    """

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    closed: set[int] = field(default_factory=set)
    refs: dict[str, Commit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        self.commit("refs/heads/main", None, {".gitattributes": File(attributes.encode())}, "initial commit")

    @property
    def namespace(self) -> str:
        return self.name.partition("/")[0]

    @property
    def head(self) -> Commit:
        """The newest commit of `main`."""
        return self.refs["refs/heads/main"]

    def find(self, revision: str) -> Commit:
        """The commit that a branch, tag, full reference or hash names."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.refs[ref]
        for head in self.refs.values():
            for commit in head.history():
                if commit.oid == revision:
                    return commit
        raise HubError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def commit(
        self, ref: str, parent: Commit | None, changes: Mapping[str, File | None], title: str, description: str = ""
    ) -> Commit:
        """Move a reference to a new commit: the parent's files with these changes; None removes a file."""
        files = {**(parent.files if parent else {}), **changes}
        # the client caches by hash: never the same twice, whatever the server forgets between tests
        oid = hashlib.sha1(f"{next(_commit_numbers)} {self.kind} {self.name}".encode()).hexdigest()
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        kept = {path: file for path, file in files.items() if file is not None}
        self.refs[ref] = Commit(oid, title, description, kept, parent, date)
        return self.refs[ref]
