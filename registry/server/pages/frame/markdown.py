"""Strangers' Markdown as HTML that can do nothing: no scripts, no styles, no pictures from elsewhere."""

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

LONGEST = 2**18  # characters that are drawn; a card may be longer, and is then cut
TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "code", "em", "strong", "del", "s"),
    *("ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "a", "sub", "sup", "dl", "dt", "dd"),
}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
DEEPER = 2  # steps that headings go down: above them, the page has its own
_parser = MarkdownIt("commonmark", {"html": True, "maxNesting": 20}).enable(["table", "strikethrough"])


def draw(text: str | None) -> Markup:
    """Return a text in Markdown as harmless HTML.

    Pictures are left out: those from elsewhere would tell their server who reads the page. Links open without a
    referrer and count for no search engine. Front matter is not shown.
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
