"""Asks a running webserver."""

import json
import urllib.error
import urllib.request
from typing import Any

from orchestration import OrchestrationError

# Never by way of a proxy, which HTTP_PROXY would mean.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Refused(OrchestrationError):
    """The server has met an error, such as that its database is away."""


def query(url: str, text: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """Asks the webserver at `url` by GraphQL.

    Raises Refused when it answers without data, OrchestrationError when it does not answer.
    """
    body = json.dumps({"query": text, "variables": variables or {}}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    try:
        with _response(request) as response:
            answer = json.load(response)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise OrchestrationError(
            f"There is no Dagster server at {url} ({getattr(reason, 'strerror', None) or reason}). "
            "Start one with `make up`, or name another --port."
        ) from error
    if answer.get("errors"):
        raise Refused(f"The server at {url} refused: {answer['errors'][0]['message']}")
    data: dict[str, Any] = answer["data"]
    return data


def _response(request: urllib.request.Request) -> Any:
    try:
        return OPENER.open(request, timeout=60)
    except urllib.error.HTTPError as error:
        # Dagster answers so with an error that it has met, too, and says which.
        if error.headers.get_content_type() == "application/json":
            return error
        if error.code < 500:
            raise
        said = f"{error.code} {error.reason}"
        raise Refused(f"The server at {request.full_url} refused: {said}") from error
