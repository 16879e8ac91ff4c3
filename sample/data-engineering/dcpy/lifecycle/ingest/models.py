"""What ingest returns."""

from dataclasses import asdict, dataclass
from typing import Any

from dcpy.fields import lean


@dataclass
class DatasetAttributes:
    name: str | None = None
    description: str | None = None
    url: str | None = None
    custom: dict[str, Any] | None = None


@dataclass
class Column:
    id: str
    data_type: str
    description: str | None = None
    is_required: bool = True
    checks: Any = None


@dataclass
class IngestedDataset:
    """One dataset, as its config.json has it."""

    id: str
    version: str
    attributes: DatasetAttributes
    transformation: dict[str, Any]
    columns: list[Column]
    source: dict[str, Any]
    crs: str | None = None

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """Give plain data, without what is empty."""
        dumped: dict[str, Any] = lean(asdict(self))
        return dumped
