"""What is asked of every page: that everybody can use it, at any width, and that strangers' words do nothing."""

from playwright.sync_api import Page

from tests.support.browsers import Site, faults

HOSTILE = '"><img src=x onerror=window.pwned=1></title><script>window.pwned=1</script>'
OPEN = "document.querySelectorAll('details').forEach((part) => { part.open = true })"


def unharmed(page: Page) -> None:
    """See that no stranger's script ran, and that none is there to run."""
    assert page.evaluate("window.pwned") is None
    assert page.locator("main :is(script, img, iframe, [onerror], [href^='javascript:'])").count() == 0


def usable(site: Site, user: str | None, *paths: str) -> None:
    """See that pages, with all there is to open, have no serious fault: wide and narrow, in the light and in the dark.

    Nor may one be wider than the window that it is in.
    """
    page = site.open(user, paths[0], reduced_motion="reduce")  # or colours would be between two themes
    for path in paths:
        page.set_viewport_size({"width": 1200, "height": 900})
        page.goto(path)
        page.evaluate(OPEN)
        for width in (1200, 400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
            for theme in ("light", "dark"):
                page.emulate_media(color_scheme=theme)
                assert faults(page) == [], (path, width, theme)
    page.context.close()
