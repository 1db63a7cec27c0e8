"""The Hub's client within limits: names are checked before it is asked, it never waits for ever, and whatever it raises
comes out as one line that says what to do and holds no token.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from huggingface_hub import constants, get_session, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from timm_asap.errors import UserError
from timm_asap.text import as_text

__all__ = [
    "WHILE_IT_COMES",
    "ask",
    "check_repo",
    "check_revision",
    "hide_token",
    "one_line",
    "refuse_answer",
    "split_revision",
    "timed_out",
]

T = TypeVar("T")

WAIT_S = 20.0
"""Seconds without a byte after which a request is given up; the client's own default is to wait for ever."""
DEADLINE_S = 180.0
"""Seconds after which a call is given up, its repetitions and a server that drips byte by byte included."""
WHILE_IT_COMES = 7 * 24 * 3600.0
"""Seconds that a download of unknown size may take besides, as long as bytes come."""
TRIES = 3
"""How often a question is put that gets no answer."""

_SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN"
_AGAIN = "run the same command again: it goes on where it stopped"
# Where uploads go, signatures stand behind the question mark.
_ADDRESS = re.compile(r"(https?://[^\s?'\"]+)\?[^\s;,)'\"]+")
# What git refuses in the name of a branch or a tag (git check-ref-format), white space and control characters included.
_NO_REVISION = re.compile(r"[\s\x00-\x20\x7f~^:?*\[\\@]|\.\.|//|^[/.\-]|[/.]$|\.lock$|/\.")

_log = logging.getLogger(__name__)


# names


def check_repo(repo: str) -> None:
    """See that the Hub would take the name of a repository, without asking it.

    Args:
        repo: `user/name`, or `name` for the user's own namespace.

    Raises:
        UserError: If it would not.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        why = as_text(" ".join(str(error).split()))
    else:
        if repo == repo.strip():  # older clients take a line break at the end
            return
        why = "a line break or a blank at its end"
    raise UserError(f"repository {repo!r}: expected user/name, such as you/resnet20_lowres_asap.fashion_mnist; {why}")


def check_revision(revision: str, shown: str, expected: str = "a branch, a tag or a commit") -> None:
    """See that a text can be the name of a branch, a tag or a commit.

    Args:
        revision: The text.
        shown: What to call it in an error, such as the flag that it was given to.
        expected: What should have come.

    Raises:
        UserError: If git would refuse it; a line break at its end kept the client waiting for ever.
    """
    if not revision or len(revision) > 250 or not revision.isprintable() or _NO_REVISION.search(revision):
        raise UserError(f"{shown}: expected {expected}, got {revision[:250]!r}")


def split_revision(name: str) -> tuple[str, str | None]:
    """Repository and revision of `user/name@revision`; None where no revision is given.

    Raises:
        UserError: If the Hub would refuse either.
    """
    repo, at, revision = name.partition("@")
    check_repo(repo)
    if at:
        check_revision(revision, f"hf-hub:{as_text(name)}", "a branch, a tag or a commit after the @")
    return repo, revision or None


# asking


def ask(call: Callable[[], T], repo: str, revision: str | None = None, *, tries: int = TRIES, wait_s: float = 0.0) -> T:
    """What a call of the client gives, within limits of time.

    A request that gets no byte for `WAIT_S` seconds fails; the call is repeated, with a line in the log, and given up
    after `DEADLINE_S` seconds in any case.

    Args:
        call: Asks the Hub; may be repeated without harm unless `tries` is 1.
        repo: The repository that is worked with.
        revision: The revision that was asked for, if one was.
        tries: How often to ask a Hub that does not answer.
        wait_s: Seconds that the call may take besides, for what it uploads or downloads.

    Raises:
        UserError: Whatever the client raises, as one line.
    """
    limit_s = DEADLINE_S + wait_s
    end = time.monotonic() + limit_s
    with one_line(repo, revision):
        for attempt in range(1, tries + 1):
            try:
                return _within(call, end, limit_s)
            except HTTPError as error:
                if isinstance(error, HfHubHTTPError) or attempt == tries:
                    raise
                _log.warning(
                    "%s does not answer (%s); asking again, %d of %d",
                    constants.ENDPOINT,
                    _reason(error),
                    attempt + 1,
                    tries,
                )
                time.sleep(min(2.0 ** (attempt - 1), max(end - time.monotonic(), 0)))
    raise AssertionError("unreachable")


def timed_out(error: BaseException | None) -> str | None:
    """The path of the request that got no answer in time; None if an error, or the one it came from, is no time-out."""
    while error is not None:
        if isinstance(error, HTTPError) and "Timeout" in type(error).__name__:
            request = getattr(error, "_request", None)
            return "" if request is None else str(request.url.path)
        error = error.__cause__ or error.__context__
    return None


class _OutOfTimeError(Exception):
    """No answer within the deadline."""


class _Call:
    """A call in a thread that nobody has to wait for.

    Attributes:
        is_over: Set once it was given up: it then makes no further request.
        outcome: Whether it succeeded, and its result or its error; None while it runs.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.is_over = False
        self.outcome: tuple[bool, Any] | None = None
        run = contextvars.copy_context().run  # the client keeps in it what a request is for
        self.thread = threading.Thread(target=run, args=(self._run, function), daemon=True)

    def _run(self, function: Callable[[], Any]) -> None:
        _own_call.set(self)
        try:
            self.outcome = True, function()
        except BaseException as error:  # raised again where it is waited for
            self.outcome = False, error
        finally:
            _running.discard(self)


_own_call: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("_own_call", default=None)
_running: set[_Call] = set()


def _limit_request(request: Any) -> None:
    """Give a request of a running call a limit; the client calls this before it sends anything."""
    own = _own_call.get()
    if own is not None and own.is_over:
        raise _OutOfTimeError("the call was given up")
    if _running:  # uploads run in threads of their own
        limits = request.extensions.get("timeout") or dict.fromkeys(("connect", "read", "write", "pool"))
        # the client asks for a file's size once more with a limit of a minute, six times
        limits = {kind: _wait_s() if limit is None else min(limit, _wait_s()) for kind, limit in limits.items()}
        request.extensions = {**request.extensions, "timeout": limits}


def _wait_s() -> float:
    """Longer where the user told the client so."""
    return max(WAIT_S, constants.HF_HUB_DOWNLOAD_TIMEOUT)


def _within(function: Callable[[], T], end: float, limit_s: float) -> T:
    hooks = get_session().event_hooks["request"]
    if _limit_request not in hooks:
        hooks.append(_limit_request)
    call = _Call(function)
    _running.add(call)
    call.thread.start()
    call.thread.join(max(end - time.monotonic(), 0.1))
    if call.outcome is None:
        call.is_over = True
        raise _OutOfTimeError(f"no answer within {limit_s:.0f} s")
    succeeded, result = call.outcome
    if not succeeded:
        raise result
    return result


# errors


@contextmanager
def one_line(repo: str, revision: str | None = None) -> Iterator[None]:
    """Let whatever the client raises inside become a `UserError`.

    An answer that is valid JSON and not what was meant gives a KeyError, a TypeError or an AttributeError somewhere in
    the client: nothing but calls of it belongs inside.

    Args:
        repo: The repository that is worked with.
        revision: The revision that was asked for, if one was.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = _ADDRESS.sub(r"\1", hide_token(_explain(error, repo, revision)))
        # an exception is printed with those it came from: one that names the token is dropped
        chain = _everything(error)
        raise UserError(as_text(" ".join(told.split()))) from (error if hide_token(chain) == chain else None)


def refuse_answer(repo: str, what: str) -> NoReturn:
    """Say that an answer was well formed and not what the Hub answers.

    Args:
        repo: The repository that was asked about.
        what: What was expected and what came.

    Raises:
        UserError: Always.
    """
    raise UserError(as_text(hide_token(_odd_answer(repo, what))))


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


def _odd_answer(repo: str, what: str) -> str:
    return (
        f"what {constants.ENDPOINT} answered about {repo} is not an answer of the Hub ({what}): a proxy, the login "
        "page of a network or an older server may stand between; look at that address in a browser, check HF_ENDPOINT "
        f"and the proxy variables, then {_AGAIN}"
    )


def _explain(error: Exception, repo: str, revision: str | None) -> str:
    endpoint, wanted = constants.ENDPOINT, f"{repo}@{revision}" if revision else repo
    if isinstance(error, GatedRepoError):
        sign_in = "" if get_token() else f", and {_SIGN_IN}"
        return f"{repo} is gated: ask for access at {endpoint}/{repo}{sign_in}; once it is granted, run this again"
    if isinstance(error, RepositoryNotFoundError):
        if get_token() is None:
            return f"no public repository {repo} at {endpoint}: check the name; if it is private, {_SIGN_IN}"
        return f"no repository {repo} at {endpoint} that your token may see: check the name and the token"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: expected a branch, a tag or a commit"
    if isinstance(error, FileMetadataError):
        return _odd_answer(repo, _first_line(error))
    if isinstance(error, LocalEntryNotFoundError):
        return _explain_missing(error, repo, revision)
    if isinstance(error, EntryNotFoundError):
        return f"{wanted} lacks a file that is needed: {_last_word(error)}"
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, repo)
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE forbids to ask the Hub about {repo}: unset it"
    if isinstance(error, _OutOfTimeError):
        return f"{endpoint} did not answer about {repo} in time ({error}); {_AGAIN}"
    if isinstance(error, HTTPError):
        what = (
            f"{endpoint} does not answer"
            if "Timeout" in type(error).__name__
            else f"the connection to {endpoint} broke"
        )
        return f"{what} ({_reason(error)}); {_AGAIN}"
    if isinstance(error, ImportError):
        return _explain_import(error)
    if isinstance(error, RuntimeError):
        return f"{repo}: {_first_line(error).rstrip('.')}{_cause(error)}; {_AGAIN}"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return _odd_answer(repo, "expected JSON")
    if isinstance(error, (OSError, ValueError)) and "mproper" not in str(error) and "alformed" not in str(error):
        return f"{repo}: {_first_line(error)}"
    return _odd_answer(repo, f"{type(error).__name__}: {_first_line(error)}")


def _explain_missing(error: LocalEntryNotFoundError, repo: str, revision: str | None) -> str:
    """A file that is not in the cache, and could not be downloaded for another reason."""
    cause = error.__cause__
    if isinstance(cause, (HfHubHTTPError, FileMetadataError, ImportError)):
        return _explain(cause, repo, revision)
    wanted = f"{repo}@{revision}" if revision else repo
    if constants.HF_HUB_OFFLINE:
        return f"{wanted} is not in the cache of downloads, and HF_HUB_OFFLINE forbids to ask the Hub: unset it"
    return f"cannot reach {constants.ENDPOINT}, and {wanted} is not in the cache of downloads: try again online"


def _explain_import(error: ImportError) -> str:
    if "socks" in str(error).lower():
        names = ", ".join(
            name for name in os.environ if name.lower().endswith("_proxy") and "socks" in os.environ[name]
        )
        return (
            f"the Hub cannot be asked through the SOCKS proxy of {names or 'the proxy variables'}: "
            "pip install socksio, or unset it"
        )
    return f"the Hub's client lacks a package: {_first_line(error)}"


def _explain_status(error: HfHubHTTPError, repo: str) -> str:
    status = error.response.status_code
    said = " ".join((error.server_message or "").split())[:300]
    if "<html" in said.lower() or "<!doctype" in said.lower():
        said = "a page of HTML, as a proxy sends it"
    if status == 401:
        return f"the Hub refused the token as wrong or expired: {_SIGN_IN}" if get_token() else f"no token: {_SIGN_IN}"
    if status == 403:
        return f"the token may not do this to {repo} ({said or 'forbidden'}): it needs the right to write there"
    if status == 407:
        return "the proxy wants a user and a password (407): put them into HTTPS_PROXY, http://user:password@host"
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
    return f" (answer {cause.response.status_code})" if isinstance(cause, HfHubHTTPError) else f" ({_reason(cause)})"


def _reason(error: BaseException) -> str:
    """What broke a connection; a time-out says how long was waited."""
    if "Timeout" in type(error).__name__:
        return f"no answer within {_wait_s():g} s"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _last_word(error: BaseException) -> str:
    """The file that the Hub names in its answer: the last part of the address."""
    response = getattr(error, "response", None)
    return str(response.url).rpartition("/")[2] if response is not None else _first_line(error)
