"""The page that compares evaluations: the base, patches alone, recipes and releases, over tasks."""

from collections import Counter
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api.reviews import Compared
from registry.server.edge.admission import VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.pages.charts import Row
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute
from registry.server.views import models as model_views
from registry.server.views import reviews as review_views

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)
LINES = ("base", "patch")  # kinds of what is drawn as lines, which the others are compared with


@router.get("/evaluations")
@allow("model.read")
def compare(
    request: Request,
    name: ModelName,
    actor: VisitorDep,
    ctx: ContextDep,
    chosen: Compared = [],  # noqa: B006
) -> Response:
    """Compare the evaluations of what is chosen or, unless something is, of what was measured last."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        model, compared = model_views.show(session, actor, row), review_views.compared(session, actor, row, chosen)
    names = row_names(compared.comparison.metrics)
    comparison, subjects = compared.comparison, compared.comparison.subjects
    offered = {one.ref: one for one in (*subjects[1:], *compared.offered)}
    return render.page(
        request,
        "evaluations.html",
        model=model,
        comparison=comparison,
        columns=[(label(subject), address(name, subject)) for subject in subjects],
        offered=[(one, label(one), one in subjects) for one in offered.values()],
        chosen=[subject.ref.removeprefix("#") for subject in subjects[1:]],
        rows=[drawn(comparison, metric, words) for metric, words in zip(comparison.metrics, names, strict=True)],
        dots=[label(one) for one in subjects if one.kind not in LINES],
        lines=[label(one) for one in subjects if one.kind in LINES],
    )


def label(subject: schemas.EvaluatedSubject) -> str:
    """Return what a subject is called on the page."""
    return f"recipe {subject.ref[:12]}" if subject.kind == "recipe" else subject.ref


def address(name: str, subject: schemas.EvaluatedSubject) -> str:
    """Return the address of the page about a subject."""
    places = {"base": "", "patch": f"/patches/{subject.ref[1:]}", "recipe": f"/recipes/{subject.ref}"}
    return f"/{name}{places.get(subject.kind, f'/releases/{subject.ref}')}"


def row_names(metrics: Sequence[schemas.ComparedMetric]) -> list[str]:
    """Return task and metric of each row of the chart, with the dataset where these are not enough."""
    counts = Counter((one.task, one.metric) for one in metrics)
    return [
        " · ".join((one.task, one.metric, one.dataset) if counts[one.task, one.metric] > 1 else (one.task, one.metric))
        for one in metrics
    ]


def drawn(comparison: schemas.EvaluationComparison, metric: schemas.ComparedMetric, name: str) -> Row:
    """Return a metric as a row of the chart."""
    values = [one.value if one else None for one in metric.evaluations]
    pairs = list(zip(comparison.subjects, values, strict=True))
    dots = [value for subject, value in pairs if subject.kind not in LINES]
    lines = [value for subject, value in pairs if subject.kind in LINES]
    return Row(name, dots, lines)
