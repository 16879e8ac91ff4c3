"""Names that several rooms use: of stages, partition sets, jobs and code locations."""

import re
from collections.abc import Sequence

STAGES = ("plan", "load", "build", "package")
TEAM_FILE = "definitions.py"
"""Beside a product: what its team defines in Dagster itself."""
INGEST = "ingest"
"""The code location of the ingest templates, and the first part of their asset keys."""
OPERATIONS = "operations"
"""The code location that tells people what has broken, where anybody is to be told."""
URL_VARIABLE = "ORCHESTRATION_URL"
"""The variable by which what `up` has started knows where its webserver is."""
STARTER_KEYS = ("nightly_qa", "main")
"""The partitions that a product's builds have from the start."""
REPOSITORY_TAG = ".dagster/repository"
"""Dagster's tag by which its UI finds a run's location: its value ends in `@` and the name."""
PARTITION_TAG = "dagster/partition"
"""Dagster's tag that says which partition a run makes."""
LAUNCHES_TAG = "orchestration/launches"
"""The tag of a run that waits for runs which it launches.

Were there as many of these as runs may go on at a time, all would wait for ever: Dagster's
configuration allows for one.
"""
ASSET_JOB = "__ASSET_JOB"
"""Dagster's job that makes any of a location's assets."""


def slug_of(name: str) -> str:
    """The name as a Python identifier: every run of other characters becomes one `_`."""
    slug = re.sub(r"[^A-Za-z0-9_]+", "_", name)
    return f"_{slug}" if slug[:1].isdigit() else slug


def build_partition_set(slug: str) -> str:
    """The name of the partition set of a product's builds; such names are Dagster-wide."""
    return f"build_{slug}"


def ingest_partition_set(template_id: str) -> str:
    """The name of the partition set of an ingest template's versions."""
    return f"ingest_{template_id}"


def build_job(slug: str) -> str:
    """The name of the job that runs all stages of a product."""
    return f"build_{slug}"


def following_sensor(slug: str) -> str:
    """The name of the sensor that has a product built when all of its inputs are new."""
    return f"{build_job(slug)}_on_new_inputs"


def inputs_job(slug: str) -> str:
    """The name of the job that ingests all that a product takes in."""
    return f"ingest_for_{slug}"


def location_names(slugs: Sequence[str]) -> list[str]:
    """The names of the code locations of ingest and products, in the order of the workspace."""
    return [INGEST, *slugs]


def url_of(host: str, port: int, path_prefix: str) -> str:
    """Where the web UI is; an IPv6 address gets its brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path_prefix}"
