"""Schemas of jobs."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from registry.schemas.wire import Answer

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
JobKind = Literal["import", "check", "diff", "compose", "rebuild", "conflicts"]


class Job(Answer):
    """Work for a worker; `progress` goes from 0 to 1."""

    id: str
    kind: JobKind
    state: JobState
    progress: float
    attempt: int
    error: str | None = Field(description="one sentence, if it failed")
    model: str
    subject: str = Field(description="what the job is about: patches '#3', a recipe digest, or 'base'")
    created_at: datetime
    finished_at: datetime | None
    ahead: int | None = Field(None, description="how many jobs are queued before it, if it was asked for alone")
