"""The page that finds models: by words, task, licence, architecture and size, sorted, in pages."""

from typing import Annotated, get_args

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator

from registry.documents import licences
from registry.schemas.contents import ModelOrder
from registry.server.edge.admission import VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute
from registry.server.views import models as model_views

router = APIRouter(prefix="/models", route_class=PageRoute, include_in_schema=False)
PAGE = 30
TASKS = (  # tasks that the Hub knows and that models of weights are for; others can be typed
    *("text-generation", "text-classification", "token-classification", "question-answering", "summarization"),
    *("translation", "fill-mask", "feature-extraction", "sentence-similarity", "text-to-image", "image-to-image"),
    *("image-classification", "object-detection", "image-segmentation", "image-text-to-text", "image-to-text"),
    *("automatic-speech-recognition", "text-to-speech", "audio-classification", "text-to-video", "any-to-any"),
)
SIZES = {  # bounds of the number of weights, by what an address says
    "100m": ("up to 100 M", None, 10**8),
    "1g": ("100 M to 1 G", 10**8, 10**9),
    "10g": ("1 G to 10 G", 10**9, 10**10),
    "100g": ("10 G to 100 G", 10**10, 10**11),
    "more": ("more than 100 G", 10**11, None),
}
Words = Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")]
Size = Annotated[str, Query(pattern=rf"^({'|'.join(SIZES)})?$")]
Sort = Annotated[ModelOrder, BeforeValidator(lambda given: given or "downloads"), Query()]


@router.get("")
@allow("server.read")
def find(
    request: Request,
    actor: VisitorDep,
    ctx: ContextDep,
    q: Words = "",
    task: Words = "",
    license: Words = "",
    architecture: Words = "",
    tag: Words = "",
    size: Size = "",
    sort: Sort = "downloads",
    after: Words = "",
) -> Response:
    """Show the models that meet all conditions."""
    chosen = {"q": q, "task": task, "license": license, "architecture": architecture, "tag": tag, "size": size}
    chosen = {name: value.strip() for name, value in chosen.items()}
    tags = (chosen["task"], chosen["license"] and f"license:{chosen['license']}", chosen["architecture"], chosen["tag"])
    _, smallest, largest = SIZES.get(size, ("", None, None))
    wanted = model_views.Filters(chosen["q"] or None, None, tuple(filter(None, tags)), smallest, largest)
    with ctx.database.read() as session:
        page = model_views.listing(session, actor, wanted, sort, after=after or None, limit=PAGE)
    return render.page(
        request,
        "models.html",
        page=page,
        chosen=chosen,
        sort=sort,
        orders=get_args(ModelOrder),
        after=after,
        tasks=TASKS,
        licenses=licences.known(),
        sizes={name: words for name, (words, _, _) in SIZES.items()},
        next=render.next_page("/models", page.next, "after", **chosen, sort=sort),
    )
