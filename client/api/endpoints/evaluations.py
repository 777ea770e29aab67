"""Evaluations: what was measured of the base, patches, releases and recipes."""

from collections.abc import Iterator, Sequence

from client.api.calls import Calls, name_of, valid
from registry import schemas


class Evaluations(Calls):
    """Evaluations."""

    def add_evaluation(
        self,
        model: str,
        ref: str,
        *,
        task: str,
        dataset: str,
        metric: str,
        value: float,
        higher_is_better: bool = True,
        stderr: float | None = None,
        source: str | None = None,
        command: str | None = None,
        tried: int | None = None,
    ) -> schemas.Evaluation:
        """Record an evaluation, under your name.

        Args:
            model: NS/NAME.
            ref: `base`, a patch (`#12`, `#12.2`), a version, a channel or a composed recipe.
            task: Like arithmetic.
            dataset: Like openai/gsm8k.
            metric: Like accuracy.
            value: What was measured.
            higher_is_better: False for a loss.
            stderr: Standard error of the value.
            source: Address of a page about it.
            command: The command that measured it.
            tried: How many candidates were measured to choose a recipe.
        """
        request = valid(
            schemas.EvaluationRequest,
            ref=ref,
            task=task,
            dataset=dataset,
            metric=metric,
            value=value,
            higher_is_better=higher_is_better,
            stderr=stderr,
            source=source,
            command=command,
            tried=tried,
        )
        return self._call(schemas.Evaluation, "POST", f"/models/{name_of(model)}/evaluations", body=request)

    def add_evaluations(
        self,
        model: str,
        ref: str,
        scores: Sequence[schemas.Score],
        *,
        source: str | None = None,
        command: str | None = None,
        tried: int | None = None,
    ) -> schemas.RecordedEvaluations:
        """Record many evaluations of one subject, under your name, all or none of them.

        What you have recorded before with the same numbers is not added again.

        Args:
            model: NS/NAME.
            ref: `base`, a patch (`#12`, `#12.2`), a version, a channel or a composed recipe.
            scores: What was measured; each metric of a task and dataset once.
            source: Address of a page about it.
            command: The command that measured it.
            tried: How many candidates were measured to choose a recipe.
        """
        request = valid(
            schemas.EvaluationsRequest, ref=ref, scores=list(scores), source=source, command=command, tried=tried
        )
        path = f"/models/{name_of(model)}/evaluations"
        return self._call(schemas.RecordedEvaluations, "PUT", path, body=request)

    def compare_evaluations(self, model: str, refs: Sequence[str] = ()) -> schemas.EvaluationComparison:
        """Compare the newest evaluations of the base and of some subjects, metric by metric.

        Args:
            model: NS/NAME.
            refs: Patches (`#3`, `3.2`), versions, channels, recipes; those that were measured last if there are none.
        """
        path = f"/models/{name_of(model)}/evaluations/compare"
        return self._call(schemas.EvaluationComparison, "GET", path, params={"with": list(refs)})

    def evaluations(self, model: str, ref: str | None = None) -> Iterator[schemas.Evaluation]:
        """Yield the evaluations of one reference, or of a whole model."""
        return self._pages(schemas.EvaluationPage, f"/models/{name_of(model)}/evaluations", "after", ref=ref)
