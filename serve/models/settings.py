"""Settings of one model, or of a group of models: tables of the configuration file, [models.NAME], [groups.NAME]."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class ModelSettings(BaseModel):
    """What is set for one model; None takes the server's own setting of that name, or what is best there."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    instances: int | None = Field(default=None, ge=1, le=64)
    """Engines of this model, each with threads of its own."""
    max_batch: int | None = Field(default=None, ge=1, le=1024)
    """Most pictures or tiles in one run."""
    max_wait_ms: float | None = Field(default=None, ge=0)
    """Longest a decoded picture waits for others that are still decoding."""
    max_in_flight: int | None = Field(default=None, ge=1)
    """Pictures of this model admitted at a time, on all routes together; more are answered with 429."""
    target_ms: float | None = Field(default=None, gt=0)
    """Admit its pictures only while they are expected to be done within this time."""
    versions: Literal["latest", "all"] | Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = "latest"
    """Which versions are served: the latest, all, or those listed. The highest answers whoever names none."""


class GroupSettings(BaseModel):
    """Variants of one task under one name, from slow and exact to fast; under load the server steps down the list."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    variants: Annotated[list[str], Field(min_length=2)]
    """Names of served models of the same task, the most exact first."""
    p99_ms: float = Field(gt=0)
    """The latency that 99 of 100 requests are to stay within, from the end of the request to the answer's begin."""
    hold_s: float = Field(default=2.0, ge=0.25, le=600)
    """Least time between any step and a step up. After a load is gone, the way back takes this for each variant."""
    default: bool = False
    """Whether it answers requests for its task that name no model."""

    @field_validator("variants")
    @classmethod
    def _each_once(cls, variants: list[str]) -> list[str]:
        if len(set(variants)) < len(variants):
            raise ValueError("a variant is listed twice; list each once, the most exact first")
        return variants
