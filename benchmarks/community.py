"""A lived-in registry as rows: people, models, patches, releases and an audit log, inserted in bulk.

The bytes of patches and models are none. Everything of a size follows from it, so two databases of one size are equal.
"""

import hashlib
import json
import random
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import JSON, Connection, select

from registry.breadcrumbs.comparing.sums import Sums
from registry.breadcrumbs.formats.recipe import ALONE, make_recipe
from registry.db import tables
from registry.db.audit import hash_event
from registry.db.session import Database
from registry.documents.versions import parse_version
from registry.services.blobs import quotas
from registry.services.catalog import search
from registry.services.people import sign_ins
from registry.services.people.tokens import create_token

NAME = "alice/llama"
START = datetime(2026, 1, 1, tzinfo=UTC)
BASE = f"sha256:{'b' * 64}"
SHAPE = [2048, 2048]
PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
PROJECTIONS += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm")
TENSORS = [f"model.layers.{layer}.{part}.weight" for layer in range(16) for part in PROJECTIONS]
WORDS = ("llama", "qwen", "mistral", "bert", "gemma")
STATES = ("withdrawn", "accepted", "accepted", "rejected", "draft", "yanked", "rejected", "superseded", "accepted")
ACTIONS = ("patch.push", "patch.checked", "patch.propose", "patch.accept", "model.update", "recipe.compose")
ACTIONS += ("release.publish", "token.create", "job.cancel", "evaluation.add")
RELEASES, HELD, COMPARED = 60, 20, 60  # of the large model
AT_ONCE = 20_000  # rows
QUARANTINED = 1000  # every thousandth patch is


@dataclass(frozen=True)
class Sizes:
    """How much there is; `patches` counts those of the large model, too."""

    models: int
    patches: int
    large: int
    events: int
    tensors: int

    def smaller(self, factor: float) -> "Sizes":
        """Return the sizes divided by a factor, but not below what the reads ask for."""
        least = Sizes(models=20, patches=500, large=200, events=1000, tensors=1000)
        return Sizes(
            **{one.name: max(int(getattr(self, one.name) / factor), getattr(least, one.name)) for one in fields(self)}
        )


@dataclass(frozen=True)
class Secrets:
    """What callers show: alice owns the large model and runs the server; bob has no role."""

    alice: str
    bob: str
    cookie: str


def digest(*words: Any) -> str:
    """Return a digest of nothing in particular."""
    return hashlib.sha256(repr(words).encode()).hexdigest()


def person(n: int) -> str:
    """Return the name of a person."""
    return f"person-{n:06d}"


class Rows:
    """Rows on their way into a database."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.copies = connection.dialect.name == "postgresql"

    def add(self, table: type[tables.Table], rows: Iterable[dict[str, Any]]) -> None:
        """Insert rows, each with the same columns; a column that is left out gets its default."""
        pending = iter(rows)
        while chunk := list(islice(pending, AT_ONCE)):
            self.insert(table, chunk)

    def insert(self, table: type[tables.Table], rows: list[dict[str, Any]]) -> None:
        """Insert some rows in one statement: the driver's own, since SQLAlchemy's takes several times as long."""
        made = table.__table__
        columns = [column for column in made.columns if column.name in rows[0] or column.default is not None]
        convert = [self.converter(column) for column in columns]
        defaults = {column.name: column.default.arg for column in columns if column.name not in rows[0]}
        values = (
            [turn({**defaults, **row}[column.name]) for column, turn in zip(columns, convert, strict=True)]
            for row in rows
        )
        names = ", ".join(f'"{column.name}"' for column in columns)
        cursor = self.connection.connection.cursor()
        if self.copies:
            with cursor.copy(f"COPY {made.name} ({names}) FROM STDIN") as copy:
                for one in values:
                    copy.write_row(one)
        else:
            marks = ", ".join("?" * len(columns))
            cursor.executemany(f"INSERT INTO {made.name} ({names}) VALUES ({marks})", values)  # noqa: S608

    def converter(self, column: Any) -> Any:
        """Return what turns a value of a column into what the driver takes."""
        if isinstance(column.type, JSON):
            return json.dumps
        turn = (
            None
            if self.copies
            else column.type.dialect_impl(self.connection.dialect).bind_processor(self.connection.dialect)
        )
        plain = turn or (lambda value: value)
        return lambda value: plain(START if callable(value) else value)


def fill(database: Database, sizes: Sizes) -> Secrets:
    """Fill a migrated, empty database."""
    with database.write() as session:
        alice, _ = create_token(session, "alice", admin=True)
        bob, _ = create_token(session, "bob")
    with database.write() as session:
        cookie = sign_ins.start(session, alice)
    with database.read() as session:
        owner = session.scalars(select(tables.User.id).where(tables.User.name == "alice")).one()
        space = session.scalars(select(tables.Namespace.id).where(tables.Namespace.name == "alice")).one()
    with database.engine.connect() as connection:
        hurry(connection)
        with connection.begin():
            Filler(Rows(connection), sizes, owner, space).fill()
            add_events(connection, Rows(connection), sizes)
        connection.invalidate()
    with database.write() as session:
        for key in session.scalars(select(tables.Namespace.id)).all():
            quotas.recount(session, key)
    return Secrets(alice, bob, cookie)


def hurry(connection: Connection) -> None:
    """Let a connection insert without the checks that its rows are known to pass, and SQLite in more memory."""
    settings = ["PRAGMA foreign_keys=OFF", "PRAGMA synchronous=OFF", "PRAGMA cache_size=-1000000"]
    if connection.dialect.name == "postgresql":
        settings = ["SET session_replication_role = replica", "SET synchronous_commit = off"]
    cursor = connection.connection.cursor()
    for setting in settings:
        cursor.execute(setting)
    connection.connection.commit()


class Filler:
    """What is put into a database, and the keys by which its parts refer to each other."""

    def __init__(self, rows: Rows, sizes: Sizes, owner: uuid.UUID, space: uuid.UUID) -> None:
        self.rows, self.sizes, self.owner, self.space = rows, sizes, owner, space
        self.random = random.Random(0)  # noqa: S311
        self.people = [self.key() for _ in range(max(40, sizes.models))]
        self.spaces = [self.key() for _ in self.people]
        self.models = [self.key() for _ in range(sizes.models)]
        each = (sizes.patches - sizes.large) // (sizes.models - 1)
        self.counts = [sizes.large] + [each] * (sizes.models - 1)

    def key(self) -> uuid.UUID:
        """Return a key."""
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    def fill(self) -> None:
        """Insert all of it, what is referred to first."""
        self.add_people()
        self.add_models()
        self.add_patches()
        self.add_releases()
        self.add_compositions()
        self.add_pairs()
        self.add_trigrams()

    def add_people(self) -> None:
        """Add people, each with a namespace."""
        named = [(person(n), key, space) for n, (key, space) in enumerate(zip(self.people, self.spaces, strict=True))]
        self.rows.add(tables.User, ({"id": key, "name": name} for name, key, _ in named))
        self.rows.add(
            tables.Namespace,
            ({"id": space, "name": name, "skeleton": f"{name}x", "kind": "user"} for name, _, space in named),
        )
        self.rows.add(
            tables.NamespaceMember,
            ({"namespace_id": space, "user_id": key, "role": "owner"} for _, key, space in named),
        )

    def model_names(self) -> Iterator[str]:
        """Yield the name of each model in its namespace."""
        yield NAME.partition("/")[2]
        for n in range(1, self.sizes.models):
            yield f"model-{n:06d}-{WORDS[n % len(WORDS)]}"

    def add_models(self) -> None:
        """Add models with their files, tags and downloads, and the tensors of some."""
        today = tables.now().date()
        sizes = [1_400_000_000] * len(self.models)
        self.rows.add(tables.Blob, ({"sha256": digest("base", n), "size": size} for n, size in enumerate(sizes)))
        self.rows.add(
            tables.Model,
            (
                {
                    "id": key,
                    "namespace_id": self.space if n == 0 else self.spaces[n % len(self.spaces)],
                    "name": name,
                    "creator_id": self.owner if n == 0 else self.people[n % len(self.people)],
                    "license": "apache-2.0",
                    "state": "ready",
                    "base_digest": BASE,
                    "base_commit": digest("base commit", n)[:40],
                    "parameters": 600_000_000,
                    "dtypes": {"BF16": 600_000_000},
                    "required_evaluations": [],
                    "size": sizes[n],
                    "card": "# A card\n\n" + "Some words. " * 200,
                    "patch_count": self.counts[n],
                    "created_at": START + timedelta(minutes=n),
                    "modified_at": START + timedelta(minutes=n),
                }
                for n, (key, name) in enumerate(zip(self.models, self.model_names(), strict=True))
            ),
        )
        tags = ("safetensors", "transformers", "license:apache-2.0")
        named = ((key, tag) for n, key in enumerate(self.models) for tag in (*tags, f"lang{n % 50}", f"task{n % 9}"))
        self.rows.add(tables.ModelTag, ({"model_id": key, "tag": tag} for key, tag in named))
        counted = ((key, today - timedelta(days=back)) for key in self.models for back in range(60))
        self.rows.add(
            tables.ModelDownloads,
            ({"model_id": key, "day": day, "count": self.random.randrange(1000)} for key, day in counted),
        )
        files = (
            {"model_id": key, "path": "model.safetensors", "sha256": digest("base", n)}
            for n, key in enumerate(self.models)
        )
        self.rows.add(tables.BaseFile, files)
        self.rows.add(
            tables.BaseTensor,
            (
                {
                    "model_id": key,
                    "name": name,
                    "position": place,
                    "dtype": "BF16",
                    "shape": SHAPE,
                    "sha256": digest(name),
                }
                for key in self.models[:200]
                for place, name in enumerate(TENSORS)
            ),
        )

    def add_patches(self) -> None:
        """Add patches with their revisions, jobs, checks and reviews, and tensors of those of the large model."""
        nnz = len(TENSORS) * SHAPE[0] * SHAPE[1] // 7
        serial = 0
        for n, (model, count) in enumerate(zip(self.models, self.counts, strict=True)):
            blobs, patches, revisions, jobs, checks, reviews = [], [], [], [], [], []
            keys = [(self.key(), self.key()) for _ in range(count)]
            for number, (patch, revision) in enumerate(keys, 1):
                serial += 1
                at, sha256 = START + timedelta(seconds=100 * serial), digest("patch", n, number)
                author = self.owner if number % 997 == 0 else self.people[number * 7 % len(self.people)]
                held = number % QUARANTINED == QUARANTINED // 5
                state = "proposed" if number % 50 == 0 else STATES[number % len(STATES)]
                blobs.append({"sha256": sha256, "size": 3 * nnz, "created_at": at})
                patches.append(
                    {
                        "id": patch,
                        "model_id": model,
                        "number": number,
                        "state": state,
                        "author_id": author,
                        "task": f"t/{number % 9}",
                        "quarantined_at": at if held else None,
                        "quarantine_reason": "A report." if held else None,
                        "created_at": at,
                    }
                )
                revisions.append(
                    {
                        "id": revision,
                        "patch_id": patch,
                        "number": 1,
                        "state": "checked",
                        "title": f"Patch {number}: what it does in some words",
                        "message": "It does *this*. " * 8,
                        "license": "apache-2.0",
                        "base_digest": BASE,
                        "sha256": sha256,
                        "blob_sha256": sha256,
                        "size": 3 * nnz,
                        "nnz": nnz,
                        "density": 0.05 + 0.1 * (number % 7) / 7,
                        "drop_bottom": "0.85",
                        "drop_top": "0.007",
                        "granularity": "tensor",
                        "value_dtype": "BF16",
                        "created_at": at,
                    }
                )
                jobs.append(
                    {
                        "id": self.key(),
                        "kind": "check",
                        "key": f"check:{revision}",
                        "state": "done",
                        "model": NAME,
                        "subject": f"#{number}",
                        "payload": {"model_id": str(model)},
                        "user_id": author,
                        "progress": 1.0,
                        "created_at": at,
                        "finished_at": at,
                    }
                )
                checks += [
                    {
                        "revision_id": revision,
                        "name": name,
                        "position": place,
                        "required": True,
                        "status": "pass",
                        "summary": "Good.",
                    }
                    for place, name in enumerate(("format", "base", "finite", "density", "norms"))
                ]
                if number % 4 == 0:
                    reviewer = self.people[(number * 11 + 3) % min(40, len(self.people))]
                    reviews.append(
                        {
                            "id": self.key(),
                            "revision_id": revision,
                            "reviewer_id": reviewer,
                            "verdict": "approve",
                            "message": "Good.",
                            "created_at": at,
                        }
                    )
            for table, rows in (
                (tables.Blob, blobs),
                (tables.Patch, patches),
                (tables.PatchRevision, revisions),
                (tables.Job, jobs),
                (tables.Check, checks),
                (tables.Review, reviews),
            ):
                self.rows.add(table, rows)
            if n == 0:
                self.add_tensors([revision for _, revision in keys])
                self.add_reviewers()

    def add_tensors(self, revisions: list[uuid.UUID]) -> None:
        """Add what the newest revisions do to each tensor."""
        share = SHAPE[0] * SHAPE[1] // 7
        self.rows.add(
            tables.PatchTensor,
            (
                {
                    "revision_id": key,
                    "name": name,
                    "position": place,
                    "dtype": "BF16",
                    "shape": SHAPE,
                    "nnz": share,
                    "density": 1 / 7,
                    "l1": 1.0,
                    "l2": 1.0 + place % 7,
                    "linf": 0.1,
                }
                for key in revisions[-(self.sizes.tensors // len(TENSORS)) :]
                for place, name in enumerate(TENSORS)
            ),
        )

    def add_reviewers(self) -> None:
        """Let forty people review the patches of the large model."""
        members = ({"model_id": self.models[0], "user_id": key, "role": "reviewer"} for key in self.people[:40])
        self.rows.add(tables.ModelMember, members)

    def add_recipes(self, named: list[tuple[str, int, list[int]]]) -> None:
        """Add recipes, each given by its digest, the place of its model, and numbers of patches."""
        self.rows.add(tables.Recipe, ({"digest": key, "base_digest": BASE, "alpha": ALONE} for key, _, _ in named))
        self.rows.add(
            tables.RecipeItem,
            (
                {"recipe_digest": key, "sha256": sha256, "weight": "1"}
                for key, n, numbers in named
                for sha256 in {digest("patch", n, number) for number in numbers}
            ),
        )

    def add_composed(self, named: list[tuple[str, int]]) -> None:
        """Add the compositions of recipes, each given by its digest and the place of its model, and who built them."""
        made = [(self.key(), n, recipe) for recipe, n in named]
        blobs = ({"sha256": digest("composed", recipe), "size": 1_400_000_000} for _, _, recipe in made)
        self.rows.add(tables.Blob, blobs)
        self.rows.add(
            tables.Composition,
            (
                {
                    "id": key,
                    "model_id": self.models[n],
                    "recipe_digest": recipe,
                    "weights_digest": f"sha256:{digest('weights', recipe)}",
                    "commit": digest("commit", recipe)[:40],
                    "device": "cpu",
                    "seconds": 1.0,
                    "created_at": START + timedelta(seconds=place),
                }
                for place, (key, n, recipe) in enumerate(made)
            ),
        )
        files = (
            {"composition_id": key, "path": "model.safetensors", "sha256": digest("composed", recipe)}
            for key, _, recipe in made
        )
        self.rows.add(tables.CompositionFile, files)
        self.rows.add(
            tables.Build,
            (
                {
                    "id": self.key(),
                    "model_id": self.models[n],
                    "recipe_digest": recipe,
                    "builder": who,
                    "weights_digest": f"sha256:{digest('weights', recipe)}",
                    "device": "cpu",
                }
                for _, n, recipe in made
                for who in ("one:1:a", "two:2:b")
            ),
        )

    def add_releases(self) -> None:
        """Add releases, sixty to the large model and two to each other, and a channel with a history."""
        cut = [(n, number) for n in range(len(self.models)) for number in range(RELEASES if n == 0 else 2)]
        self.add_recipes(
            [(digest("recipe", n, number), n, list(range(1, 1 + min(self.counts[n], HELD)))) for n, number in cut]
        )
        self.add_composed([(digest("recipe", n, number), n) for n, number in cut])
        keys = {one: self.key() for one in cut}
        self.rows.add(
            tables.Release,
            (
                {
                    "id": keys[n, number],
                    "model_id": self.models[n],
                    "version": f"1.{number}.0",
                    "sort": parse_version(f"1.{number}.0").sort_key,
                    "state": "published",
                    "recipe_digest": digest("recipe", n, number),
                    "previous_version": f"1.{number - 1}.0" if number else None,
                    "changelog": "### Added\n\n" + "* #1 something\n" * 20,
                    "card": "# Card\n\n" + "Words. " * 100,
                    "commit": digest("commit", digest("recipe", n, number))[:40],
                    "creator_id": self.owner,
                    "publisher_id": self.owner,
                    "created_at": START + timedelta(days=number),
                    "published_at": START + timedelta(days=number),
                }
                for n, number in cut
            ),
        )
        self.rows.add(
            tables.ReleaseFile,
            (
                {
                    "release_id": keys[one],
                    "path": "model.safetensors",
                    "sha256": digest("composed", digest("recipe", *one)),
                }
                for one in cut
            ),
        )
        last = {n: keys[n, number] for n, number in cut}
        channels = {n: self.key() for n in last}
        self.rows.add(
            tables.Channel,
            ({"id": channels[n], "model_id": self.models[n], "name": "stable", "release_id": last[n]} for n in last),
        )
        self.rows.add(
            tables.ChannelMove,
            (
                {
                    "id": self.key(),
                    "channel_id": channels[n],
                    "number": 1,
                    "kind": "move",
                    "release_id": last[n],
                    "user_id": self.owner,
                    "reason": "Better.",
                }
                for n in last
            ),
        )

    def add_compositions(self) -> None:
        """Add compositions of one patch each to the large model, as people who try patches leave them."""
        numbers = range(1, 1 + self.sizes.large // 5)
        named = [(make_recipe(BASE, ALONE, [(digest("patch", 0, one), "1")]).digest, 0, [one]) for one in numbers]
        self.add_recipes(named)
        self.add_composed([(recipe, n) for recipe, n, _ in named])

    def add_trigrams(self) -> None:
        """Add what search looks up."""
        names = enumerate(self.model_names())
        full = ((n, NAME if n == 0 else f"{person(n % len(self.people))}/{name}") for n, name in names)
        self.rows.add(
            tables.ModelTrigram,
            ({"trigram": part, "model_id": self.models[n]} for n, name in full for part in set(search.trigrams(name))),
        )

    def add_pairs(self) -> None:
        """Add the conflicts among some patches of the large model."""
        whole = {one.name: 0.5 if one.type in (float, "float") else 1000 for one in fields(Sums)}
        known = sorted(digest("patch", 0, number) for number in range(1, 1 + COMPARED))
        pairs = ((first, second) for place, first in enumerate(known) for second in known[place + 1 :])
        self.rows.add(
            tables.PatchPair,
            (
                {
                    "first_sha256": first,
                    "second_sha256": second,
                    "sums": whole,
                    "tensors": dict.fromkeys(TENSORS[:20], whole),
                }
                for first, second in pairs
            ),
        )


def add_events(connection: Connection, rows: Rows, sizes: Sizes) -> None:
    """Add audit events to the chain, a quarter of them about the large model."""
    chance = random.Random(1)  # noqa: S311
    models = [key for (key,) in connection.execute(select(tables.Model.id).order_by(tables.Model.created_at))]
    people = list(connection.execute(select(tables.User.id, tables.User.name).order_by(tables.User.name)))
    serial, before = connection.execute(select(tables.AuditHead.serial, tables.AuditHead.hash)).one()

    def events() -> Iterator[dict[str, Any]]:
        nonlocal serial, before
        for n in range(sizes.events):
            serial += 1
            user_id, user_name = people[n % len(people)]
            place = 0 if chance.random() < 0.25 else chance.randrange(len(models))
            event = tables.AuditEvent(
                serial=serial,
                at=START + timedelta(seconds=n),
                user_id=user_id,
                user_name=user_name,
                token_prefix="hf_abcdef",  # noqa: S106
                action=ACTIONS[n % len(ACTIONS)],
                subject=f"{NAME}#{n % 97}",
                model_id=models[place],
                before=None,
                after={"number": n},
                request_id=None,
                previous_hash=before,
            )
            before = hash_event(event)
            names = (
                "serial",
                "at",
                "user_id",
                "user_name",
                "token_prefix",
                "action",
                "subject",
                "model_id",
                "after",
                "previous_hash",
            )
            yield {name: getattr(event, name) for name in names} | {"hash": before}

    rows.add(tables.AuditEvent, events())
    connection.execute(tables.AuditHead.__table__.update().values(serial=serial, hash=before))
