"""Requests, responses and errors, free of sockets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs


@dataclass(frozen=True)
class User:
    """Who a token stands for.

    Args:
        name: Namespace of the user's repositories.
        can_write: False for a read-only token.
        orgs: Other namespaces that the user may write to.
    """

    name: str
    can_write: bool = True
    orgs: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.orgs)


@dataclass
class Request:
    """A request with its body read and its token looked up; `path` and `query` are still quoted."""

    method: str
    path: str
    query: str
    headers: Any
    body: bytes
    user: User | None = None

    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body.decode())

    def option(self, name: str, default: str = "") -> str:
        """The last value of a query parameter."""
        return parse_qs(self.query).get(name, [default])[-1]

    def wants(self, name: str) -> bool:
        """Whether a query parameter is true."""
        return self.option(name).lower() in ("1", "true")


@dataclass
class Response:
    """What goes back; Content-Length is added on sending."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def reply(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response of JSON."""
    return Response(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})


class HubError(Exception):
    """An error as the Hub reports it: status, X-Error-Code, X-Error-Message.

    Args:
        status: HTTP status.
        message: For people.
        code: What the client tells cases apart by; not every error has one.
        body: Further fields of the JSON body.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message, **(body or {})}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}

    def response(self) -> Response:
        return reply(self.body, self.status, self.headers)

    @classmethod
    def repo_not_found(cls, user: User | None) -> HubError:
        """A repository that is not there, or that this user must not know of."""
        if user is None:
            return cls(401, "Invalid username or password.", code="RepoNotFound")
        return cls(404, "Repository not found", code="RepoNotFound")

    @classmethod
    def entry_not_found(cls, commit: Any, path: str) -> HubError:
        """A file or folder that a commit does not have."""
        headers = {"X-Repo-Commit": commit.oid}
        return cls(404, f"{path} does not exist", code="EntryNotFound", headers=headers)
