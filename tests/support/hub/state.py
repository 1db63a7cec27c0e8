"""The state of the local Hub: who may do what, and which repositories there are."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tests.support.hub.faults import Fault, Faults
from tests.support.hub.messages import HubError, Request, User
from tests.support.hub.repository import File, Repository, is_lfs


class Hub:
    """Everything that a test sets up, breaks or looks at. `reset()` empties it.

    Attributes:
        url: Where it answers: the value of HF_ENDPOINT.
        write_token: Token of the user `you`, who may write to `you/...` and `your-team/...`.
        read_token: The same user's, read-only.
        guest_token: Token of another user, `guest`.
        stored: LFS objects by sha256, committed or not.
        page_size: Items on a page of the tree listing.
        part_size: LFS uploads of more bytes come in parts of this size.
        requests: `(method, unquoted path, status)` of every request, in order; status 0 where it was cut short.
        crashes: Tracebacks of the server's own errors; a test should end with none.
    """

    write_token = "hf_writeTokenOfYou"
    read_token = "hf_readTokenOfYou"
    guest_token = "hf_writeTokenOfGuest"

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.RLock()
        self.faults = Faults()
        self.reset()

    def reset(self) -> None:
        """Forget every repository, fault, upload and request."""
        with self.lock:
            self.faults.clear()
            self.tokens = {
                self.write_token: User("you", orgs=("your-team",)),
                self.read_token: User("you", can_write=False),
                self.guest_token: User("guest"),
            }
            self.repositories: dict[tuple[str, str], Repository] = {}
            self.stored: dict[str, bytes] = {}
            self.parts: dict[tuple[str, int], bytes] = {}
            self.page_size = 1000
            self.part_size = 1 << 40
            self.requests: list[tuple[str, str, int]] = []
            self.crashes: list[str] = []

    def add_repo(
        self, name: str, files: Mapping[str, bytes | str] | None = None, kind: str = "models", **access: bool
    ) -> Repository:
        """Put a repository there without the client, its files in one commit.

        Args:
            name: "namespace/name".
            files: Content by path.
            kind: "models", "datasets" or "spaces".
            **access: `private` or `gated`.
        """
        repository = Repository(kind, name, **access)
        changes = {}
        for path, content in (files or {}).items():
            content = content.encode() if isinstance(content, str) else content
            changes[path] = File(content, is_lfs(path, content[:512], len(content)))
        if changes:
            repository.commit("refs/heads/main", repository.head, changes, "Add files")
        with self.lock:
            self.repositories[kind, name] = repository
        return repository

    def repo(self, name: str, kind: str = "models") -> Repository:
        """The repository as it stands; KeyError if there is none."""
        return self.repositories[kind, name]

    def fail(self, method: str, path: str, **kind: Any) -> Fault:
        """Break the next request that matches; see :class:`hub.faults.Fault`."""
        return self.faults.add(Fault(method, path, **kind))

    def asked(self, method: str, path: str) -> int:
        """How many requests of this method had this text in their path."""
        return sum(request[0] == method and path in request[1] for request in self.requests)

    def sign_in(self, request: Request) -> User | None:
        """Who sent the request: None if it has no token, an error if it has a wrong one."""
        header = request.headers.get("Authorization")
        if header is None:
            return None
        user = self.tokens.get(header.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def open(self, user: User | None, kind: str, name: str, *, write: bool = False, files: bool = False) -> Repository:
        """A repository that this user may see; with `write` change; with `files` read the files of."""
        repository = self.repositories.get((kind, name))
        owns = user is not None and repository is not None and user.owns(repository.namespace)
        if repository is None or (repository.private and not owns):
            raise HubError.repo_not_found(user)
        if write and user is None:
            raise HubError(401, "Invalid username or password.")
        if write and not (owns and user.can_write):
            raise HubError(403, "You don't have the rights to write to this repository")
        if files and repository.gated and not owns and (user is None or user.name not in repository.readers):
            message = f"Access to model {name} is restricted."
            raise HubError(401 if user is None else 403, message, code="GatedRepo")
        return repository
