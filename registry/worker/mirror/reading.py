"""Reading: what the primary answers, from JSON to documents and changes; whatever is not sound is refused."""

import re
import uuid
from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from registry import schemas
from registry.errors import InvalidRequest, Unavailable
from registry.files.names import HEX256
from registry.outside.primary import Primary
from registry.services.mirroring import documents
from registry.services.mirroring.carried import Part, parse_part
from registry.services.mirroring.documents import Document, malformed
from registry.services.mirroring.exports import FORMAT

MOST_PAGES = 10_000  # of one list
EVENTS = 500  # of one answer
MAX_ROWS = 30_000  # of one part, with its users and files: databases take no more parameters at once
MAX_BYTES = 256 * 2**20  # of one part
MAX_MODELS = 1_000_000
ATTEMPTS = 3  # to read all pages of a part without a change of the model meanwhile
Shape = TypeVar("Shape", bound=BaseModel)


def read(shape: type[Shape], raw: bytes) -> Shape:
    """Return an answer of a shape.

    Raises:
        InvalidRequest: It is not one.
    """
    try:
        return shape.model_validate_json(raw)
    except ValidationError as why:
        first = why.errors()[0]
        raise malformed(f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg'][:200]}") from None


def head(primary: Primary, at: int) -> schemas.MirrorHead:
    """Return which registry the primary is, the head of its log, and the hash of an event.

    Raises:
        InvalidRequest: It speaks of rows in another form than this version knows, or was never started.
    """
    found = read(schemas.MirrorHead, primary.get("/mirror", at=at))
    if found.format != FORMAT:
        raise InvalidRequest(
            f"{primary.url} gives rows of format {found.format}, and this version takes {FORMAT}; install the same "
            "version in both places."
        )
    if found.registry is None:
        raise InvalidRequest(f"{primary.url} has no id yet; start it once.")
    return found


def models(primary: Primary) -> dict[uuid.UUID, str]:
    """Return the full names of the models that may be mirrored, by their keys."""
    found: dict[uuid.UUID, str] = {}
    after: dict[str, str] = {}
    for _ in range(MOST_PAGES):
        page = read(schemas.MirrorModelPage, primary.get("/mirror/models", 0, **after))
        found |= {documents.read_key(item.id): item.name for item in page.items}
        if len(found) > MAX_MODELS:
            raise malformed(f"it has more than {MAX_MODELS} models")
        if page.next is None:
            return found
        after = {"after": str(documents.read_key(page.next))}
    raise malformed("its list of models has no end")


def parts(primary: Primary, model: str) -> Iterator[Part]:
    """Yield the parts of a model, in the order in which they are taken over."""
    after: dict[str, str] = {}
    for _ in range(MOST_PAGES):
        page = read(schemas.MirrorPartPage, primary.get(f"/models/{model}/mirror/parts", 0, **after))
        yield from map(parse_part, page.items)
        if page.next is None:
            return
        after = {"after": page.next}
    raise malformed("its list of parts has no end")


def changes(primary: Primary, since: int, wait: int) -> schemas.ChangePage:
    """Return the changes after a serial, as soon as there are any, or after some seconds."""
    page = read(schemas.ChangePage, primary.get("/changes", wait, since=since, limit=EVENTS, wait=wait))
    serials = [since, *(change.serial for change in page.items)]
    if sorted(set(serials)) != serials or page.next < serials[-1]:
        raise malformed("its changes are in no order")
    return page


def document(primary: Primary, model: str, part: Part) -> Document:
    """Return a part of a model.

    Pages are read in turn, so a row that goes meanwhile would move another one out of sight. What changes the model has
    an event, and then all of them are read again.

    Raises:
        InvalidRequest: It is not sound.
        NotFound: The model is not there any more, or has no base.
        Unavailable: It changed each time.
    """
    pages = pages_of(primary, model, part, 1)
    if pages[-1].next is None:
        return join(part, pages)
    for _ in range(ATTEMPTS):
        serial = head(primary, 0).serial
        pages = pages_of(primary, model, part, MOST_PAGES)
        meanwhile = changes(primary, serial, 0)
        if len(meanwhile.items) < EVENTS and all(change.model != model for change in meanwhile.items):
            return join(part, pages)
    raise Unavailable(f"{model} changes all the time at {primary.url}; {part} is read again later.")


def pages_of(primary: Primary, model: str, part: Part, most: int) -> list[schemas.MirrorRowPage]:
    """Return the pages of a part, or the first ones."""
    pages, skip, size, count = list[schemas.MirrorRowPage](), 0, 0, 0
    for _ in range(most):
        raw = primary.get(f"/models/{model}/mirror/rows", part=str(part), skip=skip)
        pages.append(read(schemas.MirrorRowPage, raw))
        size, count = size + len(raw), count + len(pages[-1].rows) + len(pages[-1].people) + len(pages[-1].blobs)
        if size > MAX_BYTES or count > MAX_ROWS:
            raise malformed(f"{part} has more than {MAX_ROWS} rows, or more than {MAX_BYTES} bytes")
        following = pages[-1].next
        if following is None or most == 1:
            return pages
        if following <= skip:
            break
        skip = following
    raise malformed("its rows have no end")


def join(part: Part, pages: list[schemas.MirrorRowPage]) -> Document:
    """Return the document that pages of rows make."""
    first = pages[0]
    recipe = None
    if first.recipe is not None:
        items = [(item.sha256, item.weight, item.where) for item in first.recipe.items]
        recipe = documents.read_recipe(
            first.recipe.digest, first.recipe.base, first.recipe.alpha, first.recipe.method, items
        )
    elif part.kind in ("recipe", "release"):
        raise malformed(f"{part} comes without its recipe")
    if part.kind == "recipe" and recipe is not None and recipe.digest != part.key:
        raise malformed(f"{part} comes with another recipe")
    people = {person.id: person for page in pages for person in page.people}
    return Document(
        part,
        documents.read_space(first.space.id, first.space.name, first.space.kind),
        [
            documents.read_person(one.id, one.name, one.display_name, one.is_program, one.namespace)
            for one in people.values()
        ],
        recipe,
        documents.read_rows([(row.table, row.values) for page in pages for row in page.rows]),
        {blob.sha256: (blob.size, blob.where) for page in pages for blob in page.blobs},
    )


def part_of(change: schemas.Change) -> Part:
    """Return the part of a model that a change is about."""
    noun, rest = change.action.partition(".")[0], change.subject.removeprefix(change.model)
    told = (change.after or {}) | (change.before or {})
    recipe = told.get("recipe")
    if noun == "recipe" and isinstance(recipe, str) and re.fullmatch(HEX256, recipe):
        return Part("recipe", recipe)
    if match := re.fullmatch(r"#([1-9][0-9]{0,8})(\.[0-9]+)?", rest):
        return Part("patch", match[1])
    if rest.startswith("@"):
        kinds = ("recipe", "release") if noun == "evaluation" else (noun,)
        for kind in kinds:
            try:
                return parse_part(f"{kind}:{rest[1:]}")
            except InvalidRequest:
                continue
    return Part("model")
