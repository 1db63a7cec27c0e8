"""Routes of an upload: how to send each file, the LFS store, and the commit."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import PurePosixPath
from typing import Any

from tests.support.hub.messages import HubError, Request, Response, reply
from tests.support.hub.metadata import problems
from tests.support.hub.repository import Commit, File, Repository, is_lfs
from tests.support.hub.router import route
from tests.support.hub.state import Hub


@route("POST", "/api/{kind}/{repo}/preupload/{revision}")
def choose_upload_modes(hub: Hub, request: Request, kind: str, repo: str, revision: str) -> Response:
    repository = hub.open(request.user, kind, repo, write=True)
    present = repository.find(revision).files
    body = request.json()
    # as on the Hub, what the client sends goes before what the repository holds
    default = present[".gitignore"].content.decode() if ".gitignore" in present else ""
    ignored = body.get("gitIgnore", default).split()
    files = []
    for file in body["files"]:
        path = file["path"]
        as_lfs = is_lfs(path, base64.b64decode(file["sample"]), file["size"])
        answer = {
            "path": path,
            "uploadMode": "lfs" if as_lfs else "regular",
            "shouldIgnore": any(map(PurePosixPath(path).match, ignored)),
        }
        if path in present:
            answer["oid"] = present[path].etag
        files.append(answer)
    return reply({"files": files})


@route("POST", r"/[kind/]{repo}\.git/info/lfs/objects/batch")
def plan_lfs(hub: Hub, request: Request, kind: str, repo: str) -> Response:
    hub.open(request.user, kind, repo, write=True)
    objects = []
    for wanted in request.json()["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in hub.stored:
            verify = {"href": f"{hub.url}/{repo}.git/info/lfs/verify"}
            answer["actions"] = {"upload": _upload_action(hub, **answer), "verify": verify}
        objects.append(answer)
    return reply({"transfer": "basic", "objects": objects})


def _upload_action(hub: Hub, oid: str, size: int) -> dict[str, Any]:
    store = f"{hub.url}/lfs-store/{oid}"
    if size <= hub.part_size:
        return {"href": store}
    count = -(-size // hub.part_size)
    parts = {str(number): f"{store}/{number}" for number in range(1, count + 1)}
    return {"href": f"{store}/complete", "header": {"chunk_size": str(hub.part_size), **parts}}


@route("PUT", "/lfs-store/{oid}")
def store_object(hub: Hub, request: Request, oid: str) -> Response:
    return _store(hub, oid, request.body)


@route("PUT", "/lfs-store/{oid}/{number}")
def store_part(hub: Hub, request: Request, oid: str, number: str) -> Response:
    hub.parts[oid, int(number)] = request.body
    return Response(headers={"ETag": _part_etag(request.body)})


@route("POST", "/lfs-store/{oid}/complete")
def join_parts(hub: Hub, request: Request, oid: str) -> Response:
    content = b""
    for part in request.json()["parts"]:
        piece = hub.parts.pop((oid, part["partNumber"]), b"")
        if _part_etag(piece) != part["etag"]:
            raise HubError(400, f"part {part['partNumber']} is not the one that was sent")
        content += piece
    return _store(hub, oid, content)


def _part_etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _store(hub: Hub, oid: str, content: bytes) -> Response:
    if hashlib.sha256(content).hexdigest() != oid:
        raise HubError(400, "the content does not have the announced sha256")
    hub.stored[oid] = content
    return Response()


@route("POST", r"/{repo}\.git/info/lfs/verify")
def verify_object(hub: Hub, request: Request, repo: str) -> Response:
    body = request.json()
    if len(hub.stored.get(body["oid"], b"")) != body["size"]:
        raise HubError(404, "the object is not stored")
    return reply({})


@route("POST", "/api/{kind}/{repo}/commit/{revision}")
def commit(hub: Hub, request: Request, kind: str, repo: str, revision: str) -> Response:
    repository = hub.open(request.user, kind, repo, write=True)
    parent = repository.find(revision)
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    if header.get("parentCommit", parent.oid) != parent.oid:
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    changes: dict[str, File | None] = {}
    for line in lines:
        changes.update(_changes(hub, parent, line["key"], line["value"]))
    if card := changes.get("README.md"):
        errors, _ = problems(card.content.decode())
        if errors:
            raise HubError(400, errors[0])
    ref = _target(repository, revision, request.wants("create_pr"))
    made = repository.commit(ref, parent, changes, header["summary"], header.get("description", ""))
    prefix = f"{hub.url}/" if kind == "models" else f"{hub.url}/{kind}/"
    body = {"commitOid": made.oid, "commitUrl": f"{prefix}{repo}/commit/{made.oid}", "success": True}
    if ref.startswith("refs/pr/"):
        body["pullRequestUrl"] = f"{prefix}{repo}/discussions/{ref.removeprefix('refs/pr/')}"
    return reply(body)


def _target(repository: Repository, revision: str, create_pr: bool) -> str:
    """The reference that the commit moves."""
    if create_pr:
        return f"refs/pr/{1 + sum(ref.startswith('refs/pr/') for ref in repository.refs)}"
    for ref in (f"refs/heads/{revision}", revision):
        if ref in repository.refs and not ref.startswith("refs/tags/"):
            return ref
    raise HubError(400, f"{revision} is no branch")


def _changes(hub: Hub, parent: Commit, key: str, value: dict[str, Any]) -> dict[str, File | None]:
    """Files by path that one line of the commit adds, replaces or (None) removes."""
    path = value.get("path", "")
    if key == "header":
        return {}
    if key == "file":
        return {path: File(base64.b64decode(value["content"]))}
    if key == "lfsFile":
        known = {file.sha256: file.content for file in parent.files.values() if file.is_lfs}
        content = hub.stored.get(value["oid"], known.get(value["oid"]))
        if content is None:
            raise HubError(400, f"the LFS object of {path} was never uploaded")
        return {path: File(content, is_lfs=True)}
    gone = [p for p in parent.files if p == path or (key == "deletedFolder" and p.startswith(f"{path.rstrip('/')}/"))]
    if not gone:
        raise HubError.entry_not_found(parent, path)
    return dict.fromkeys(gone)
