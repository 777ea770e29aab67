"""The Atom feed of a model's releases (RFC 4287), for readers that ask now and then."""

import re
from xml.etree import ElementTree

from fastapi import APIRouter, Response

from registry.server.edge.admission import VisitorDep, allow
from registry.server.edge.context import ContextDep, PublicUrl
from registry.server.edge.paths import ModelName
from registry.server.pages.frame.route import PageRoute
from registry.server.views import models as model_views
from registry.server.views import releases as release_views

router = APIRouter(prefix="/{namespace:space}/{name}/releases.atom", route_class=PageRoute, include_in_schema=False)
ATOM = "http://www.w3.org/2005/Atom"
ENTRIES = 20
UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # which XML cannot hold


@router.get("")
@allow("model.read")
def feed(name: ModelName, actor: VisitorDep, ctx: ContextDep, url: PublicUrl) -> Response:
    """Return the newest published releases of a model as a feed."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        created, releases = row.created_at, release_views.published(session, row, ENTRIES)
    root = ElementTree.Element("feed", xmlns=ATOM)
    home = f"{url}/{name}"
    updated = max((found.published_at for found in releases), default=created)
    for tag, text in (("id", f"{home}/releases"), ("title", f"Releases of {name}"), ("updated", updated.isoformat())):
        add(root, tag, text)
    ElementTree.SubElement(root, "link", rel="self", href=f"{home}/releases.atom")
    ElementTree.SubElement(root, "link", rel="alternate", href=f"{home}/releases")
    for found in releases:
        write(ElementTree.SubElement(root, "entry"), found, f"{home}/releases/{found.version}", name)
    body = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return Response(body, media_type="application/atom+xml")


def write(entry: ElementTree.Element, found: release_views.PublishedRelease, address: str, name: str) -> None:
    """Write an entry for a release."""
    add(entry, "id", address)
    add(entry, "title", f"{name} {found.version}" + (" (yanked)" if found.yanked else ""))
    add(entry, "updated", found.published_at.isoformat())
    ElementTree.SubElement(entry, "link", rel="alternate", href=address)
    if found.publisher:
        add(ElementTree.SubElement(entry, "author"), "name", found.publisher)
    add(entry, "content", found.changelog)


def add(parent: ElementTree.Element, tag: str, text: str) -> None:
    """Add an element with a text, without what XML cannot hold."""
    ElementTree.SubElement(parent, tag).text = UNWRITABLE.sub("\ufffd", text)
