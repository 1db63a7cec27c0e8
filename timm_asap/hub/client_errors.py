"""What the Hub's client raises, brought to one line that says what to do and holds no token."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from timm_asap.errors import UserError

__all__ = ["hide_token", "one_line"]

_SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN"
# Where uploads go, signatures stand behind the question mark.
_ADDRESS = re.compile(r"(https?://[^\s?'\"]+)\?[^\s;,)'\"]+")
_AGAIN = "run the same command again: it goes on where it stopped"


@contextmanager
def one_line(repo: str, revision: str | None = None) -> Iterator[None]:
    """Let what the client raises inside become a `UserError`.

    Args:
        repo: The repository that is worked with.
        revision: The revision that was asked for, if one was.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, HTTPError, EntryNotFoundError, RuntimeError, ValueError) as error:
        # HfHubHTTPError is an OSError, LocalEntryNotFoundError a FileNotFoundError; a failed upload is a RuntimeError,
        # a header that cannot be sent a ValueError
        told = _ADDRESS.sub(r"\1", hide_token(_explain(error, repo, revision)))
        # an exception is printed with those it came from: one that names the token is dropped
        chain = _everything(error)
        raise UserError(told) from (error if hide_token(chain) == chain else None)


def hide_token(text: str) -> str:
    """A text without the user's token, in case a library put it there."""
    for secret in {get_token(), os.environ.get("HF_TOKEN")}:
        if secret and secret.strip():
            text = text.replace(secret, "(token)")
    return text


def _everything(error: BaseException | None) -> str:
    """The texts of an exception and of those that it came from."""
    texts = []
    while error is not None:
        texts.append(f"{error} {error.args}")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def _explain(error: Exception, repo: str, revision: str | None) -> str:
    endpoint, wanted = constants.ENDPOINT, f"{repo}@{revision}" if revision else repo
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: ask for access at {endpoint}/{repo}, and {_SIGN_IN}"
    if isinstance(error, RepositoryNotFoundError):
        if get_token() is None:
            return f"no public repository {repo} at {endpoint}: check the name; if it is private, {_SIGN_IN}"
        return f"no repository {repo} at {endpoint} that your token may see: check the name and the token"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: expected a branch, a tag or a commit"
    if isinstance(error, LocalEntryNotFoundError) and not isinstance(error.__cause__, HfHubHTTPError):
        if constants.HF_HUB_OFFLINE:
            return f"{wanted} is not in the cache of downloads, and HF_HUB_OFFLINE forbids to ask the Hub: unset it"
        return f"cannot reach {endpoint}, and {wanted} is not in the cache of downloads: try again online"
    if isinstance(error, LocalEntryNotFoundError):
        error = error.__cause__
    if isinstance(error, EntryNotFoundError):
        return f"{wanted} lacks a file that is needed: {_last_word(error)}"
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, repo)
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE forbids to ask the Hub about {repo}: unset it"
    if isinstance(error, HTTPError):
        return f"the connection to {endpoint} broke ({_first_line(error)}); {_AGAIN}"
    if isinstance(error, RuntimeError):
        return f"{repo}: {_first_line(error).rstrip('.')}{_cause(error)}; {_AGAIN}"
    if isinstance(error, json.JSONDecodeError):
        return f"the answer of {endpoint} about {repo} cannot be read; {_AGAIN}"
    return f"{repo}: {_first_line(error)}"


def _explain_status(error: HfHubHTTPError, repo: str) -> str:
    status = error.response.status_code
    said = " ".join((error.server_message or "").split())
    if status == 401:
        return f"the Hub refused the token as wrong or expired: {_SIGN_IN}" if get_token() else f"no token: {_SIGN_IN}"
    if status == 403:
        return f"the token may not do this to {repo} ({said or 'forbidden'}): it needs the right to write there"
    if status == 412:
        return (
            f"{repo} changed while this was being published: somebody else published first, and nothing of yours was "
            "committed; look at the repository, then run the same command again"
        )
    if status == 429 or status >= 500:
        return f"the Hub answered {status} for {repo}; {_AGAIN}"
    return f"the Hub answered {status} for {repo}: {said or _first_line(error)}"


def _cause(error: BaseException) -> str:
    """Why an upload failed, in brackets; the client tells only which file it was."""
    cause = error.__cause__
    if cause is None:
        return ""
    return (
        f" (answer {cause.response.status_code})" if isinstance(cause, HfHubHTTPError) else f" ({_first_line(cause)})"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _last_word(error: BaseException) -> str:
    """The file that the Hub names in its answer: the last part of the address."""
    response = getattr(error, "response", None)
    return str(response.url).rpartition("/")[2] if response is not None else _first_line(error)
