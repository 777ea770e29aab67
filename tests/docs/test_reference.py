"""docs/reference beside the code: what is generated is up to date, and what is written by hand holds."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import AuditEvent
from registry.schemas import Upload
from registry.services import events
from registry.services.events import feed, payloads, signing, webhooks
from registry.settings import Settings
from registry.worker import courier
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.world import World, create_model, digest, open_world, push_patch

ROOT = Path(__file__).parents[2]
WEBHOOKS = (ROOT / "docs/reference/webhooks.md").read_text("utf-8")
LIMITS = ("MOST_WEBHOOKS", "KEPT_FOR", "MOST_ATTEMPTS", "FIRST_PAUSE")
SECRET = "whsec_" + "Ab3+" * 10 + "w/0="
UPLOADS = (ROOT / "docs/reference/uploads.md").read_text("utf-8")

spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
assert spec and spec.loader
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert (ROOT / "docs" / name).read_text("utf-8") == generate.PAGES[name](), "run `python docs/generate.py`"


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def first_column(text: str, heading: str) -> list[str]:
    """Return what the first column of the first table below a heading has between backticks."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row)]


def example(text: str) -> str:
    """Return the Python block of a page."""
    (found,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return found


# Webhooks --------------------------------------------------------------------------------------------------------


def calls(file: Path, name: str) -> Iterator[tuple[ast.FunctionDef, ast.Call]]:
    """Yield every call of a function by its name, with the function that it is in."""
    for function in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(function, ast.FunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name:
                    yield function, call


def words(node: ast.AST) -> set[str]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def recorded() -> set[str]:
    """Return the names of all events that the services record of a model, read from the calls that do."""
    found: set[str] = set()
    for file in (ROOT / "registry/services").rglob("*.py"):
        for function, call in calls(file, "record"):
            action = call.args[2]
            if isinstance(action, ast.Name):  # one of a few, chosen above
                found |= {word for word in words(function) if re.fullmatch(r"[a-z]+\.[a-z_]+", word)}
            elif isinstance(action, ast.Constant):
                found.add(action.value)
            else:
                assert ast.unparse(action) in ("f'patch.{verb}'", "f'channel.{kind}'")
    steps = [call for _, call in calls(ROOT / "registry/server/api/reviews.py", "move")]
    moves = [call for _, call in calls(ROOT / "registry/services/releasing/channels.py", "apply_move")]
    found |= {f"patch.{word}" for call in steps for word in words(call) if word}
    found |= {f"channel.{word}" for call in moves for word in words(call)}
    return {name for name in found if name.partition(".")[0] in webhooks.NOUNS}


def test_every_event_is_listed_and_none_that_is_never_sent() -> None:
    listed = first_column(WEBHOOKS, "Events")
    assert len(listed) == len(set(listed))
    assert set(listed) == recorded()
    public = {name for name in listed if name.partition(".")[0] in feed.NOUNS} - set(feed.HIDDEN_ACTIONS)
    assert public | {"model.mirrored"} == feed.ACTIONS, "what mirrors take over of the feed"


def test_the_nouns_and_the_limits_are_those_of_the_code() -> None:
    prose, found = " ".join(WEBHOOKS.split()), dict(vars(courier))
    for module in pkgutil.iter_modules(events.__path__):
        found |= vars(importlib.import_module(f"{events.__name__}.{module.name}"))
    most, kept, attempts, pause = (found[name] for name in LIMITS)
    assert f"The nouns are {', '.join(webhooks.NOUNS[:-1])} and {webhooks.NOUNS[-1]}." in prose
    for claim in (
        f"at most {most} webhooks",
        f"{attempts} attempts",
        f"about {pause.seconds} seconds",
        f"kept for {kept.days} days",
        f"version {payloads.VERSION} of the Hugging Face Hub's webhooks",
    ):
        assert claim in prose


def delivery(secret: str) -> Any:
    """Return what a courier holds while it sends."""
    claim = next(iter(inspect.signature(signing.headers).parameters.values())).annotation
    return claim(uuid.uuid4(), uuid.uuid4(), 1, "https://hooks.example.org", secret, "patch.push", 7)


def test_the_headers_are_those_that_are_sent() -> None:
    sent = signing.headers(delivery(SECRET), b"{}", 1)
    assert [name for name in sent if f"| `{name}` |" not in WEBHOOKS] == []
    documented = set(re.findall(r"^\| `([A-Za-z]+-[A-Za-z-]+)` \|", WEBHOOKS, re.MULTILINE))
    assert documented == set(sent)


def test_the_example_accepts_what_the_courier_signs_and_nothing_else() -> None:
    names: dict[str, object] = {}
    exec(example(WEBHOOKS), names)
    is_genuine, body, now = names["is_genuine"], b'{"event": {}}', int(time.time())
    assert callable(is_genuine)
    headers = signing.headers(delivery(SECRET), body, now)
    assert is_genuine(SECRET, headers, body)
    assert not is_genuine("whsec_" + "A" * 43 + "=", headers, body)
    assert not is_genuine(SECRET, headers, body + b" ")
    assert not is_genuine(SECRET, {**headers, "webhook-timestamp": str(now + 1)}, body)
    assert not is_genuine(SECRET, signing.headers(delivery(SECRET), body, now - 3600), body)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("registry")
    with open_world(folder / "data", f"sqlite:///{folder / 'registry.db'}") as made:
        yield made


def test_the_payload_has_the_fields_that_the_page_lists(registry: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(registry, "alice/m", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(registry, "alice/m", tmp_path / "patch.safetensors")
    answer = registry.client("bob").post("/api/v1/models/alice/m/patches/1/comments", json={"message": "Good."})
    assert answer.status_code == 201
    section = WEBHOOKS.split("| field | value |", 1)[1].split("\n## ", 1)[0]
    listed = {
        row[0]: set(re.findall(r"`(\w+)`", row[1])) for row in re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.M)
    }
    seen: set[str] = set()
    with registry.database.read() as session:
        for event in session.scalars(select(AuditEvent).where(AuditEvent.model_id.is_not(None))).all():
            found = payloads.describe(session, event, uuid.uuid4(), "https://crumbs.example.org")
            assert set(found) <= set(listed)
            assert event.action in first_column(WEBHOOKS, "Events")
            for name in found:
                shown = found[name][0] if isinstance(found[name], list) else found[name]
                values = {"repo", "content", "discussion"} if name == "event" else {"patch", "comment"}
                assert listed[name] - values <= set(shown), name
            assert set(found["crumb"]) == listed["crumb"]
            seen |= set(found)
    assert seen == set(listed)


# Uploads ---------------------------------------------------------------------------------------------------------


def test_the_upload_example_works(registry: World) -> None:
    names: dict[str, object] = {}
    exec(example(UPLOADS), names)
    data = bytes(range(256)) * 12  # more parts than one: this registry's have 1000 bytes
    assert callable(names["upload"])
    for _ in range(2):  # the second time there is nothing to send
        assert names["upload"](registry.client(), data) == digest(data)
    assert registry.store.path(digest(data)).read_bytes() == data


def test_the_fields_of_a_session_are_listed() -> None:
    assert set(first_column(UPLOADS, "1. Announce")) >= set(Upload.model_fields)


def test_the_errors_and_routes_of_uploads_exist() -> None:
    routes = (ROOT / "docs/reference/api.md").read_text("utf-8")
    for method, path in re.findall(r"(GET|PUT|POST|DELETE) (/api/\S+?)[`\s.]", UPLOADS):
        assert f"| {method} | `{path}` |" in routes, path
    slugs = (ROOT / "docs/reference/errors.md").read_text("utf-8")
    assert all(f"`{slug}`" in slugs for slug in re.findall(r"`([a-z]+-mismatch|conflict)`", UPLOADS))
