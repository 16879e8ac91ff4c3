"""Asks a running webserver."""

import json
import urllib.request
from typing import Any

from orchestration import OrchestrationError

# Never by way of a proxy, which HTTP_PROXY would mean.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def query(url: str, text: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """Asks the webserver at `url` by GraphQL.

    Raises OrchestrationError when it does not answer, or not with data.
    """
    body = json.dumps({"query": text, "variables": variables or {}}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    try:
        with OPENER.open(request, timeout=60) as response:
            answer = json.load(response)
    except (OSError, ValueError) as error:
        raise OrchestrationError(
            f"There is no Dagster server at {url} ({getattr(error, 'reason', error)}). Start one "
            "with `make up`, or name another --port."
        ) from error
    if answer.get("errors"):
        raise OrchestrationError(f"The server at {url} refused: {answer['errors'][0]['message']}")
    data: dict[str, Any] = answer["data"]
    return data
