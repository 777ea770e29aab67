"""Markdown of strangers as harmless HTML: without scripts, styles, or pictures."""

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

LONGEST = 2**18  # characters that are rendered; a longer card is cut
TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "code", "em", "strong", "del", "s"),
    *("ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "a", "sub", "sup", "dl", "dt", "dd"),
}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
DEEPER = 2  # levels by which headings are lowered, below those of the page
_parser = MarkdownIt("commonmark", {"html": True, "maxNesting": 20}).enable(["table", "strikethrough"])


def draw(text: str | None) -> Markup:
    """Return Markdown as harmless HTML.

    Pictures are left out, since one on another server would tell it who reads the page. Links send no referrer and
    count for no search engine. Front matter is not shown.
    """
    body = without_front_matter(text or "")
    cut = body[:LONGEST] + ("\n\n…" if len(body) > LONGEST else "")
    tokens = _parser.parse(cut)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + DEEPER)}"
    html = _parser.renderer.render(tokens, _parser.options, {})
    return Markup(  # noqa: S704 - nh3 has cleaned it
        nh3.clean(
            html,
            tags=TAGS,
            attributes=ATTRIBUTES,
            url_schemes={"http", "https", "mailto"},
            link_rel="nofollow noopener noreferrer",
        )
    )


def without_front_matter(text: str) -> str:
    """Return a card without the YAML at its head."""
    if not text.startswith("---"):
        return text
    head, mark, body = text[3:].partition("\n---")
    return body.partition("\n")[2] if mark and len(head) < 2**16 else text
