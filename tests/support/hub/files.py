"""Routes that list and give out files."""

from __future__ import annotations

import re

from tests.support.hub.messages import HubError, Request, Response, reply
from tests.support.hub.repository import File
from tests.support.hub.router import route
from tests.support.hub.state import Hub


@route("GET", "/api/{kind}/{repo}/tree/{revision}")
@route("GET", "/api/{kind}/{repo}/tree/{revision}/{path}")
def list_tree(hub: Hub, request: Request, kind: str, repo: str, revision: str, path: str = "") -> Response:
    commit = hub.open(request.user, kind, repo).find(revision)
    items = commit.listing(path, recursive=request.wants("recursive"))
    if request.wants("expand"):
        items = [{**item, "lastCommit": {"id": commit.oid, "title": "", "date": commit.date}} for item in items]
    start = int(request.option("cursor", "0"))
    end = start + hub.page_size
    headers = {}
    if end < len(items):
        query = f"recursive={request.wants('recursive')}&expand={request.wants('expand')}&cursor={end}"
        headers["Link"] = f'<{hub.url}{request.path}?{query}>; rel="next"'
    return reply(items[start:end], headers=headers)


@route("POST", "/api/{kind}/{repo}/paths-info/{revision}")
def describe_paths(hub: Hub, request: Request, kind: str, repo: str, revision: str) -> Response:
    commit = hub.open(request.user, kind, repo).find(revision)
    paths = request.form().get("paths", [])
    return reply([item for item in commit.listing() if item["path"] in paths])


@route("GET HEAD", "/[kind/]{repo}/resolve/{revision}/{path}")
def resolve(hub: Hub, request: Request, kind: str, repo: str, revision: str, path: str) -> Response:
    commit = hub.open(request.user, kind, repo, files=True).find(revision)
    file = commit.files.get(path)
    if file is None:
        raise HubError.entry_not_found(commit, path)
    response = Response(body=file.content, headers={"X-Repo-Commit": commit.oid, **_describe(file)})
    wanted = request.headers.get("Range")
    return _part(response, wanted) if wanted and request.method == "GET" else response


def _describe(file: File) -> dict[str, str]:
    headers = {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if file.is_lfs:
        headers.update({"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))})
    return headers


def _part(response: Response, wanted: str) -> Response:
    """The bytes that a Range header asks for: `bytes=5-9`, `bytes=5-` or `bytes=-5`."""
    size = len(response.body)
    first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        raise HubError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers = {**response.headers, "Content-Range": f"bytes {start}-{end}/{size}"}
    return Response(206, response.body[start : end + 1], headers)
