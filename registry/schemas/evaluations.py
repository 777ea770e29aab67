"""Schemas of evaluations: what was measured, of what, and by whom."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.schemas.wire import Answer, Text, Wire, most_bytes

MOST = 1000  # evaluations in one request
TASK, DATASET, METRIC = 100, 200, 100  # most characters of their names

Subject = Annotated[str, StringConstraints(pattern=r"^(#[0-9]{1,9}(\.[0-9]{1,9})?|[A-Za-z0-9][A-Za-z0-9._+:-]{0,99})$")]
Source = Annotated[Text, StringConstraints(max_length=500)]
Command = Annotated[Text, StringConstraints(max_length=4096), most_bytes(4096)]
Tried = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Score(Wire):
    """One measured number, in the terms of the Hub's evaluation results."""

    task: Annotated[Text, StringConstraints(min_length=1, max_length=TASK)]
    dataset: Annotated[Text, StringConstraints(min_length=1, max_length=DATASET)]
    metric: Annotated[Text, StringConstraints(min_length=1, max_length=METRIC)]
    value: float = Field(allow_inf_nan=False)
    stderr: float | None = Field(None, ge=0, allow_inf_nan=False, description="standard error of the value")
    higher_is_better: bool = True


class EvaluationRequest(Score):
    """Record one measured number."""

    ref: Subject = Field(description="base, #12, #12.2, a version, a channel or a composed recipe")
    source: Source | None = None
    command: Command | None = None
    tried: Tried | None = Field(None, description="candidates that were measured to choose a recipe")


class EvaluationsRequest(Wire):
    """Record what was measured of one subject, all or none of it."""

    ref: Subject = Field(description="base, #12, #12.2, a version, a channel or a composed recipe")
    scores: list[Score] = Field(min_length=1, max_length=MOST)
    source: Source | None = None
    command: Command | None = None
    tried: Tried | None = Field(None, description="candidates that were measured to choose a recipe")


class Evaluation(Answer):
    """One measured number, and who measured it."""

    id: str
    subject: str = Field(description="base, #12.2, 1.2.0 or the digest of a recipe")
    task: str
    dataset: str
    metric: str
    value: float
    stderr: float | None = Field(None, description="standard error of the value")
    higher_is_better: bool
    source: str | None
    command: str | None
    tried: int | None = Field(None, description="candidates that were measured to choose the recipe")
    user: str
    created_at: datetime


class RecordedEvaluations(Answer):
    """What was recorded, and what you had recorded before with the same numbers and is not added again."""

    added: list[Evaluation]
    known: list[Evaluation]


class EvaluatedSubject(Answer):
    """What is compared: the base, a patch alone, a recipe or a release."""

    ref: str = Field(description="base, #12.2, 1.2.0 or the digest of a recipe")
    kind: Literal["base", "patch", "recipe", "release"]
    title: str | None = Field(description="of a patch")


class ComparedMetric(Answer):
    """One metric, and the newest evaluation of each subject, in their order; null where there is none."""

    task: str
    dataset: str
    metric: str
    higher_is_better: bool
    evaluations: list[Evaluation | None]
    best: list[int] = Field(description="places of the best values, if there are several values")


class EvaluationComparison(Answer):
    """Evaluations of several subjects side by side."""

    subjects: list[EvaluatedSubject]
    metrics: list[ComparedMetric]
    more: bool = Field(description="whether there are more metrics than these")


class EvaluationPage(Answer):
    """Evaluations, newest first; `next` is the cursor of the page after this one."""

    items: list[Evaluation]
    next: str | None
