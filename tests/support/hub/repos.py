"""Routes of accounts, repositories, branches and tags."""

from __future__ import annotations

from typing import Any

from tests.support.hub.messages import HubError, Request, Response, User, reply
from tests.support.hub.metadata import front_matter, problems
from tests.support.hub.repository import Commit, Repository
from tests.support.hub.router import route
from tests.support.hub.state import Hub


@route("GET", "/api/whoami-v2")
def whoami(hub: Hub, request: Request) -> Response:
    user = _signed_in(request)
    token = {"displayName": "test", "role": "write" if user.can_write else "read"}
    orgs = [{"name": name} for name in user.orgs]
    return reply({"name": user.name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}})


def _signed_in(request: Request) -> User:
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    return request.user


def _named(request: Request) -> tuple[str, str]:
    """Kind and full name of the repository that the body names; 403 if the user may not manage it."""
    user, body = _signed_in(request), request.json()
    namespace = body.get("organization") or user.name
    if not (user.can_write and user.owns(namespace)):
        raise HubError(403, f'You don\'t have the rights to create a repository under the namespace "{namespace}"')
    return f"{body.get('type') or 'model'}s", f"{namespace}/{body['name']}"


@route("POST", "/api/repos/create")
def create(hub: Hub, request: Request) -> Response:
    kind, name = _named(request)
    url = f"{hub.url}/{name}" if kind == "models" else f"{hub.url}/{kind}/{name}"
    if (kind, name) in hub.repositories:
        raise HubError(409, "You already created this repo", body={"url": url})
    hub.add_repo(name, kind=kind, private=request.json().get("visibility") == "private")
    return reply({"url": url, "name": name})


@route("DELETE", "/api/repos/delete")
def delete(hub: Hub, request: Request) -> Response:
    kind, name = _named(request)
    hub.open(request.user, kind, name, write=True)
    del hub.repositories[kind, name]
    return reply({})


@route("PUT", "/api/{kind}/{repo}/settings")
def change_settings(hub: Hub, request: Request, kind: str, repo: str) -> Response:
    repository = hub.open(request.user, kind, repo, write=True)
    settings = request.json()
    repository.private = settings.get("visibility", "private" if repository.private else "public") == "private"
    repository.gated = bool(settings.get("gated", repository.gated))
    return reply({})


@route("GET", "/api/{kind}/{repo}/auth-check")
def check_access(hub: Hub, request: Request, kind: str, repo: str) -> Response:
    hub.open(request.user, kind, repo, write=request.wants("write"), files=True)
    return reply({})


@route("GET", "/api/{kind}")
def find_repositories(hub: Hub, request: Request, kind: str) -> Response:
    author, wanted = request.option("author"), request.option("search").lower()
    found = []
    for repository in hub.repositories.values():
        visible = not repository.private or (request.user is not None and request.user.owns(repository.namespace))
        fits = author in ("", repository.namespace) and wanted in repository.name.lower()
        if repository.kind == kind and visible and fits:
            found.append(_info(repository, repository.head))
    return reply(found)


@route("GET", "/api/{kind}/{repo}")
@route("GET", "/api/{kind}/{repo}/revision/{revision}")
def describe(hub: Hub, request: Request, kind: str, repo: str, revision: str = "main") -> Response:
    repository = hub.open(request.user, kind, repo)
    commit = repository.find(revision)
    return reply({**_info(repository, commit), "siblings": _siblings(commit, request.wants("blobs"))})


def _info(repository: Repository, commit: Commit) -> dict[str, Any]:
    card = front_matter(commit.files["README.md"].content.decode()) if "README.md" in commit.files else {}
    return {
        "id": repository.name,
        "author": repository.namespace,
        "sha": commit.oid,
        "lastModified": commit.date,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": card.get("tags", []),
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "cardData": card,
    }


def _siblings(commit: Commit, with_blobs: bool) -> list[dict[str, Any]]:
    siblings = []
    for path, file in sorted(commit.files.items()):
        sibling: dict[str, Any] = {"rfilename": path}
        if with_blobs:
            sibling.update(size=len(file.content), blobId=file.blob_id)
        if with_blobs and file.is_lfs:
            sibling["lfs"] = {
                "sha256": file.sha256,
                "size": len(file.content),
                "pointerSize": len(file.pointer),
            }
        siblings.append(sibling)
    return siblings


@route("POST", "/api/validate-yaml")
def validate_card(hub: Hub, request: Request) -> Response:
    errors, warnings = problems(request.json()["content"])
    body = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    return reply(body, status=400 if errors else 200)


# history


@route("GET", "/api/{kind}/{repo}/commits/{revision}")
def list_commits(hub: Hub, request: Request, kind: str, repo: str, revision: str) -> Response:
    repository = hub.open(request.user, kind, repo)
    author = {"user": repository.namespace}
    return reply(
        [
            {"id": c.oid, "title": c.title, "message": c.description, "authors": [author], "date": c.date}
            for c in repository.find(revision).history()
        ]
    )


@route("GET", "/api/{kind}/{repo}/refs")
def list_refs(hub: Hub, request: Request, kind: str, repo: str) -> Response:
    groups: dict[str, list] = {"refs/heads/": [], "refs/tags/": [], "refs/pr/": []}
    for ref, commit in hub.open(request.user, kind, repo).refs.items():
        prefix = next(p for p in groups if ref.startswith(p))
        groups[prefix].append({"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit.oid})
    branches, tags, pull_requests = groups.values()
    return reply({"branches": branches, "tags": tags, "converts": [], "pullRequests": pull_requests})


@route("GET", "/api/{kind}/{repo}/discussions")
def list_pull_requests(hub: Hub, request: Request, kind: str, repo: str) -> Response:
    repository = hub.open(request.user, kind, repo)
    heads = {r.removeprefix("refs/pr/"): commit for r, commit in repository.refs.items() if r.startswith("refs/pr/")}
    discussions = [
        {
            "title": commit.title,
            "num": int(number),
            "author": {"name": repository.namespace},
            "createdAt": commit.date,
            "status": "closed" if int(number) in repository.closed else "open",
            "repo": {"name": repo, "type": kind.removesuffix("s")},
            "isPullRequest": True,
        }
        for number, commit in reversed(heads.items())
    ]
    wanted = request.option("status", "all")
    found = [d for d in discussions if wanted in ("all", d["status"])]
    return reply({"count": len(found), "start": 0, "discussions": found})


@route("POST", "/api/{kind}/{repo}/tag/{revision}")
def create_tag(hub: Hub, request: Request, kind: str, repo: str, revision: str) -> Response:
    repository = hub.open(request.user, kind, repo, write=True)
    return _add_ref(repository, f"refs/tags/{request.json()['tag']}", revision)


@route("POST", "/api/{kind}/{repo}/branch/{branch}")
def create_branch(hub: Hub, request: Request, kind: str, repo: str, branch: str) -> Response:
    repository = hub.open(request.user, kind, repo, write=True)
    return _add_ref(repository, f"refs/heads/{branch}", request.json().get("startingPoint", "main"))


def _add_ref(repository: Repository, ref: str, revision: str) -> Response:
    if ref in repository.refs:
        raise HubError(409, f"Reference already exists: {ref}")
    repository.refs[ref] = repository.find(revision)
    return reply({})


@route("DELETE", "/api/{kind}/{repo}/tag/{name}")
def delete_tag(hub: Hub, request: Request, kind: str, repo: str, name: str) -> Response:
    return _remove_ref(hub.open(request.user, kind, repo, write=True), f"refs/tags/{name}")


@route("DELETE", "/api/{kind}/{repo}/branch/{name}")
def delete_branch(hub: Hub, request: Request, kind: str, repo: str, name: str) -> Response:
    if name == "main":
        raise HubError(403, "Cannot delete the main branch")
    return _remove_ref(hub.open(request.user, kind, repo, write=True), f"refs/heads/{name}")


def _remove_ref(repository: Repository, ref: str) -> Response:
    if repository.refs.pop(ref, None) is None:
        raise HubError(404, f"{ref} does not exist", code="RevisionNotFound")
    return reply({})
