"""The first page and the lists that it leads to: what goes on, and what to do where nothing does."""

from sqlalchemy import select

from registry.db.tables import Model
from tests.support.community import NAME, Community
from tests.support.world import World


def test_an_empty_registry_says_what_to_do(calm: World) -> None:
    http = calm.browser()
    assert "There is no model here yet." in http.get("/").text and 'href="/new"' in http.get("/").text
    for path in ("/releases", "/patches"):
        assert "There are none yet." in http.get(path).text
    assert "There is no model here yet." in http.get("/models").text


def test_the_first_page_shows_what_is_released_and_what_waits_to_those_who_may_see_it(sqlite_lived: Community) -> None:
    sqlite_lived.set(4, state="proposed")
    http = sqlite_lived.world.browser()
    shown = http.get("/").text
    for href in (f"/{NAME}", f"/{NAME}/releases/1.2.0", f"/{NAME}/patches/4", "/models"):
        assert f'href="{href}"' in shown, href
    assert f"/{NAME}/patches/4" in http.get("/patches").text and f"/{NAME}/releases/1.0.0" in http.get("/releases").text
    with sqlite_lived.world.database.write() as session:
        session.scalars(select(Model)).one().visibility = "private"
    for path in ("/", "/patches", "/releases", "/models", "/alice"):
        assert f"/{NAME}" not in http.get(path).text, path


def test_models_are_found_by_all_conditions_together(sqlite_lived: Community) -> None:
    http = sqlite_lived.world.browser()
    assert http.get("/?q=tiny").headers["location"] == "/models?q=tiny"
    assert http.get(f"/?q={'t' * 200}").headers["location"] == f"/models?q={'t' * 100}", "the most that it takes"
    for query in ("", "?q=tiny", "?architecture=tiny", "?size=100m", "?q=tiny&tag=safetensors&size=100m&sort=name"):
        assert f'href="/{NAME}"' in http.get(f"/models{query}").text, query
    for query in ("?q=other", "?task=fill-mask", "?license=mit", "?size=1g", "?architecture=tiny&license=mit"):
        answer = http.get(f"/models{query}").text
        assert f'href="/{NAME}"' not in answer and "No model that you may see matches." in answer, query
    for query in ("?size=huge", "?sort=likes", "?after=x&sort=created"):
        assert http.get(f"/models{query}").status_code == 422, query
