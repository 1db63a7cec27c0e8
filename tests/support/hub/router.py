"""Which function answers which method and path."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from tests.support.hub.messages import HubError, Request, Response
from tests.support.hub.state import Hub

_GROUPS = {
    "kind": "models|datasets|spaces",
    "repo": "[^/]+/[^/]+",
    "path": ".+",
}
_routes: list[tuple[str, re.Pattern[str], Callable[..., Response]]] = []


def route(methods: str, path: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Let a function answer these methods and this path.

    Args:
        methods: One or more, with spaces between them.
        path: `{name}` stands for a part that the function takes as a keyword, unquoted; `[kind/]` for the prefix that
            models lack.
    """
    pattern = path.replace("[kind/]", "(?:(?P<kind>datasets|spaces)/)?")
    pattern = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{_GROUPS.get(m[1], '[^/]+')})", pattern)

    def register(function: Callable[..., Response]) -> Callable[..., Response]:
        _routes.extend((method, re.compile(pattern), function) for method in methods.split())
        return function

    return register


def answer(hub: Hub, request: Request) -> Response:
    """Find and call the function; an error becomes the response that the Hub would give."""
    try:
        request.user = hub.sign_in(request)
        for method, pattern, function in _routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                groups = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                if "kind" in pattern.groupindex:
                    groups.setdefault("kind", "models")
                with hub.lock:
                    return function(hub, request, **groups)
        raise HubError(404, f"the local Hub has no route for {request.method} {request.path}")
    except HubError as error:
        return error.response()
