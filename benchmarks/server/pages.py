"""Web pages of a model with a thousand patches: time in the server for each, from its address to the last byte.

The registry is real, in a SQLite file of its own, and so is every row; only the bytes of patches and models are none.
A page is asked for by somebody who owns the model and runs the server, since they are shown the most.
"""

import argparse
import hashlib
import logging
import math
import statistics
import tempfile
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import insert
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from benchmarks.results import Bar, Result, Table
from registry.db import tables as tables
from registry.db.session import migrate, open_database
from registry.documents.versions import parse_version
from registry.server.app import close_app, create_app
from registry.server.pages.frame.cookies import COOKIE
from registry.services.people import actors, sign_ins
from registry.services.people.namespaces import ensure_user
from registry.services.people.tokens import create_token
from registry.settings import Settings

NAME = "alice/llama"
LAYERS, HELD, RELEASES, PEOPLE = 16, 50, 20, 40
PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
PROJECTIONS += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm")
TENSORS = [f"model.layers.{layer}.{part}.weight" for layer in range(LAYERS) for part in PROJECTIONS]
BASE = f"sha256:{'b' * 64}"
SHAPE = [2048, 2048]
LIMIT = 200.0  # milliseconds
LONGEST = 48  # letters of an address in a table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--patches", type=int, default=1000, help="of the model (1000)")
    parser.add_argument("--rounds", type=int, default=7, help="times that each page is asked for (7)")


def run(args: argparse.Namespace) -> Result:
    """Measure every page."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder), rate_address="", rate_token="")
        migrate(settings.database)
        with open_database(settings.database).write() as session:
            secret = fill(session, args.patches)
        app = create_app(settings)
        try:
            http = TestClient(app, cookies={COOKIE: secret}, follow_redirects=False)
            found = [(path, *measure(http, path, args.rounds)) for path in paths(args.patches)]
        finally:
            close_app(app)
    rows = [
        [f"`{short(path)}`", f"{statistics.median(taken):.0f} ms", f"{max(taken):.0f} ms", f"{size / 1000:,.0f} kB"]
        for path, taken, size in found
    ]
    slowest = max(statistics.median(taken) for _, taken, _ in found)
    table = Table("Time in the server", ["page", "median", "longest", "HTML"], rows)
    bar = Bar("slowest page, ms", slowest, LIMIT, judged=args.patches == 1000)
    series = {
        short(path): {"milliseconds": [round(one, 3) for one in taken], "bytes": size} for path, taken, size in found
    }
    parameters = {"patches": args.patches, "tensors": len(TENSORS), "releases": RELEASES, "rounds": args.rounds}
    return Result("pages", parameters, [table], [bar], series)


def measure(http: TestClient, path: str, rounds: int) -> tuple[list[float], int]:
    """Ask for a page some times, after once to warm up; return the milliseconds of each, and its bytes."""
    taken: list[float] = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        answer = http.get(path)
        taken.append(1000 * (time.perf_counter() - started))
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:500])
    return taken[1:], len(answer.content)


def short(path: str) -> str:
    """Return an address as tables and plots have room for it."""
    return path if len(path) <= LONGEST else f"{path[: LONGEST - 1]}…"


def paths(patches: int) -> list[str]:
    """Return the addresses of all pages that show something that grows."""
    home, newest = f"/{NAME}", f"1.{RELEASES - 1}.0"
    chosen = "&".join(f"patch={number}" for number in range(1, 17))
    return [
        "/",
        "/models?q=llama",
        "/alice",
        "/settings/tokens",
        home,
        f"{home}/patches",
        f"{home}/patches?state=accepted&author=person-07&density_min=1&tensor=layers.3",
        f"{home}/patches/1",
        f"{home}/patches/{patches}",
        f"{home}/patches/1/compare/2",
        f"{home}/conflicts?{chosen}",
        f"{home}/recipes/new",
        f"{home}/recipes/new?from={newest}",
        f"{home}/recipes/{recipe_digest(RELEASES - 1)}",
        f"{home}/releases",
        f"{home}/releases/{newest}",
        f"{home}/releases/compare?before=1.0.0&after={newest}",
        f"{home}/channels/stable",
        f"{home}/inbox",
        f"{home}/settings",
        f"{home}/settings/webhooks",
        f"{home}/audit",
        "/admin",
        "/admin/reports",
        "/admin/quarantine",
        "/admin/namespaces",
        "/admin/jobs",
        "/admin/workers",
        "/admin/audit",
    ]


def digest(*words: Any) -> str:
    """Return a digest of nothing in particular."""
    return hashlib.sha256(repr(words).encode()).hexdigest()


def recipe_digest(release: int) -> str:
    """Return the digest of the recipe of a release."""
    return digest("recipe", release)


def fill(session: Session, patches: int) -> str:
    """Fill an empty registry; return the cookie of alice, who may see everything."""
    token, _ = create_token(session, "alice", admin=True)
    alice = ensure_user(session, "alice", admin=True)
    people = [ensure_user(session, f"person-{n:02d}") for n in range(PEOPLE)]
    session.flush()
    space = session.query(tables.Namespace).filter_by(name="alice").one()
    model = tables.Model(
        namespace_id=space.id,
        name=NAME.partition("/")[2],
        creator_id=alice.id,
        license="apache-2.0",
        state="ready",
        base_digest=BASE,
        base_commit="c" * 40,
        parameters=len(TENSORS) * math.prod(SHAPE),
        size=2 * len(TENSORS) * math.prod(SHAPE),
        card="# A card\n\n" + "Some words. " * 500,
        patch_count=patches,
    )
    session.add(model)
    session.flush()
    add_files(session, model)
    add_patches(session, model, people, patches)
    add_releases(session, model, alice)
    session.add_all(
        tables.Job(
            kind="check",
            key=f"check:{n}",
            state="done",
            model=NAME,
            subject=f"#{n}",
            payload={"model_id": str(model.id)},
            user_id=alice.id,
            progress=1.0,
        )
        for n in range(patches)
    )
    actor = actors.authenticate(session, token)
    for n in range(patches):
        actors.record(session, actor, "patch.push", f"{NAME}#{n}", model, after={"sha256": digest("patch", n)})
    return sign_ins.start(session, token)


def add_files(session: Session, model: tables.Model) -> None:
    """Add the base, as far as rows go."""
    session.add(tables.Blob(sha256=digest("base"), size=model.size))
    session.flush()
    session.add(tables.BaseFile(model_id=model.id, path="model.safetensors", sha256=digest("base")))
    session.add_all(
        tables.BaseTensor(model_id=model.id, name=name, position=n, dtype="BF16", shape=SHAPE, sha256=digest(name))
        for n, name in enumerate(TENSORS)
    )


def add_patches(session: Session, model: tables.Model, people: list[tables.User], count: int) -> None:
    """Add checked patches in all states, with statistics, reviews, comments, checks and pairs."""
    states = ("accepted", "accepted", "proposed", "draft", "yanked", "rejected")
    nnz = len(TENSORS) * math.prod(SHAPE) // 7
    rows: list[dict[str, Any]] = []
    for n in range(1, count + 1):
        state = "accepted" if n <= HELD else states[n % len(states)]
        patch = tables.Patch(
            id=uuid.uuid4(),
            model_id=model.id,
            number=n,
            state=state,
            author_id=people[n % PEOPLE].id,
            task=f"t/{n % 9}",
        )
        revision = tables.PatchRevision(
            id=uuid.uuid4(),
            patch_id=patch.id,
            number=1,
            state="checked",
            title=f"Patch {n}: what it does in some words",
            message="It does *this*. " * 20,
            license="apache-2.0",
            base_digest=BASE,
            sha256=digest("patch", n),
            size=nnz * 3,
            nnz=nnz,
            density=1 / 7,
            drop_bottom="0.85",
            drop_top="0.007",
            granularity="tensor",
            value_dtype="BF16",
        )
        session.add_all([patch, revision])
        if n in (1, count):
            session.flush()
            add_discussion(session, patch, revision, people)
        rows += [
            {
                "revision_id": revision.id,
                "name": name,
                "position": place,
                "dtype": "BF16",
                "shape": SHAPE,
                "nnz": nnz // len(TENSORS),
                "density": 1 / 7,
                "l1": 1.0,
                "l2": 1.0 + (n * place) % 7,
                "linf": 0.1,
            }
            for place, name in enumerate(TENSORS)
        ]
    session.flush()
    session.execute(insert(tables.PatchTensor), rows)
    add_pairs(session)


def add_discussion(
    session: Session, patch: tables.Patch, revision: tables.PatchRevision, people: list[tables.User]
) -> None:
    """Add what was said of a patch."""
    session.add_all(
        tables.Comment(patch_id=patch.id, author_id=people[n % PEOPLE].id, message="Some *words*. " * 10)
        for n in range(50)
    )
    session.add_all(
        tables.Review(revision_id=revision.id, reviewer_id=people[n].id, verdict="approve", message="Good.")
        for n in range(10)
    )
    session.add_all(
        tables.Check(
            revision_id=revision.id, name=name, position=n, required=True, status="pass", summary="It is good."
        )
        for n, name in enumerate(("format", "base", "finite", "density", "norms"))
    )
    session.add_all(
        tables.Evaluation(
            model_id=patch.model_id,
            revision_id=revision.id,
            task="text-generation",
            dataset=f"set{n}",
            metric="accuracy",
            value=0.5,
            higher_is_better=True,
            user_id=people[0].id,
        )
        for n in range(20)
    )


def add_pairs(session: Session) -> None:
    """Add what is known of the pairs among the first sixteen patches."""
    from registry.breadcrumbs.comparing.conflicts import Sums

    whole = {
        name: (0.5 if kind in (float, "float") else 1000)
        for name, kind in ((field, info.type) for field, info in Sums.__dataclass_fields__.items())
    }
    known = sorted(digest("patch", n) for n in range(1, 17))
    session.add_all(
        tables.PatchPair(
            first_sha256=first, second_sha256=second, sums=whole, tensors={name: dict(whole) for name in TENSORS}
        )
        for place, first in enumerate(known)
        for second in known[place + 1 :]
    )
    census = {name: [10] * (len(known) + 1) for name in TENSORS}
    session.add(
        tables.PatchSet(digest=hashlib.sha256("".join(f"{one}\n" for one in known).encode()).hexdigest(), census=census)
    )


def add_releases(session: Session, model: tables.Model, owner: tables.User) -> None:
    """Add published releases, and a channel with a history."""
    last = None
    for n in range(RELEASES):
        recipe, version = recipe_digest(n), f"1.{n}.0"
        items = [
            tables.RecipeItem(sha256=digest("patch", number), weight="1")
            for number in range(1, 1 + min(HELD, 10 + 2 * n))
        ]
        session.add(tables.Recipe(digest=recipe, base_digest=BASE, alpha="0.3", items=items))
        session.flush()
        files = [tables.CompositionFile(path="model.safetensors", sha256=digest("base"))]
        weights = f"sha256:{digest('weights', n)}"
        session.add(
            tables.Composition(
                model_id=model.id,
                recipe_digest=recipe,
                weights_digest=weights,
                commit=digest("commit", n)[:40],
                device="cpu",
                seconds=1.0,
                files=files,
            )
        )
        session.add_all(
            tables.Build(model_id=model.id, recipe_digest=recipe, builder=who, weights_digest=weights, device="cpu")
            for who in ("one:1:a", "two:2:b")
        )
        last = tables.Release(
            model_id=model.id,
            version=version,
            sort=parse_version(version).sort_key,
            state="published",
            recipe_digest=recipe,
            previous_version=f"1.{n - 1}.0" if n else None,
            changelog="### Added\n\n" + "* #1 something\n" * 20,
            card="# Card\n\n" + "Words. " * 300,
            commit=digest("commit", n)[:40],
            creator_id=owner.id,
            publisher_id=owner.id,
            published_at=tables.now() - timedelta(days=RELEASES - n),
        )
        session.add(last)
    session.flush()
    assert last is not None
    channel = tables.Channel(model_id=model.id, name="stable", release_id=last.id)
    session.add(channel)
    session.flush()
    session.add_all(
        tables.ChannelMove(
            channel_id=channel.id, number=n, kind="move", release_id=last.id, user_id=owner.id, reason="Better."
        )
        for n in range(1, 101)
    )
