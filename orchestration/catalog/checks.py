"""How strict the checks of what was ingested and built are: `checks` in products.yml."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt

Severity = Literal["warning", "error"]


class Checks(BaseModel):
    """What a check that fails does, and how much may change.

    A warning is shown; an error keeps the new result aside, so that the earlier one stays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    not_empty: Severity = Field(default="warning", description="A table without rows.")
    columns: Severity = Field(
        default="warning",
        description="A table or column that is gone, a column that is new or of another type.",
    )
    rows: Severity = Field(
        default="warning", description="More or fewer rows than `rows_threshold` allows."
    )
    rows_threshold: StrictInt | StrictFloat = Field(
        default=10, ge=0, description="By how many percent the rows of a table may change."
    )
