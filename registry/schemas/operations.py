"""Shapes of jobs."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from registry.schemas.wire import Answer

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
JobKind = Literal["import", "check", "compose", "rebuild"]


class Job(Answer):
    """Work for a worker; `progress` goes from 0 to 1."""

    id: str
    kind: JobKind
    state: JobState
    progress: float
    attempt: int
    error: str | None = Field(description="one sentence, when failed")
    model: str
    subject: str = Field(description="what the job is about: a patch '#3', a recipe digest, or 'base'")
    created_at: datetime
    finished_at: datetime | None
