"""How often what failed is tried again."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

Backoff = Literal["constant", "linear", "exponential"]


class Retries(BaseModel):
    """How a stage is tried again that failed for what may pass, such as a server that was down."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: StrictInt = Field(default=2, ge=0, le=20, description="How often.")
    delay: float = Field(
        default=60.0, ge=0, le=86_400, strict=True, description="Seconds until the first time."
    )
    backoff: Backoff = Field(
        default="exponential",
        description="How the seconds grow: not at all (60, 60, 60), by as much each time "
        "(60, 120, 180), or ever more (60, 180, 420).",
    )
    stages: tuple[Literal["ingest", "plan", "load", "build"], ...] = Field(
        default=("ingest", "plan", "load"),
        description="What it is for. Of a product the last three, of `defaults` ingest, too.",
    )

    def times(self, stage: str) -> int:
        """How often the stage is tried again."""
        return self.number if stage in self.stages else 0
