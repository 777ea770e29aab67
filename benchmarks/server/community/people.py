"""People, each with a namespace, and models with their files, tags, downloads and tensors."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from benchmarks.server.community.rows import START
from benchmarks.server.community.sizes import BASE, NAME, SHAPE, TENSORS, Community, digest, person
from registry.db import tables
from registry.services.catalog import search

WORDS = ("llama", "qwen", "mistral", "bert", "gemma")
TAGS = ("safetensors", "transformers", "license:apache-2.0")
SIZE = 1_400_000_000  # bytes of a model
DETAILED = 200  # models whose tensors are there


def add_people(community: Community) -> None:
    """Add people, each with a namespace."""
    pairs = enumerate(zip(community.people, community.spaces, strict=True))
    named = [(person(n), key, space) for n, (key, space) in pairs]
    community.rows.add(tables.User, ({"id": key, "name": name} for name, key, _ in named))
    community.rows.add(
        tables.Namespace,
        ({"id": space, "name": name, "skeleton": f"{name}x", "kind": "user"} for name, _, space in named),
    )
    community.rows.add(
        tables.NamespaceMember,
        ({"namespace_id": space, "user_id": key, "role": "owner"} for _, key, space in named),
    )


def model_names(community: Community) -> Iterator[str]:
    """Yield the name of each model in its namespace."""
    yield NAME.partition("/")[2]
    for n in range(1, community.sizes.models):
        yield f"model-{n:06d}-{WORDS[n % len(WORDS)]}"


def add_models(community: Community) -> None:
    """Add models with their files, tags and downloads, and the tensors of some."""
    rows, models = community.rows, community.models
    rows.add(tables.Blob, ({"sha256": digest("base", n), "size": SIZE} for n in range(len(models))))
    rows.add(tables.Model, (model_row(community, n, name) for n, name in enumerate(model_names(community))))
    named = ((key, tag) for n, key in enumerate(models) for tag in (*TAGS, f"lang{n % 50}", f"task{n % 9}"))
    rows.add(tables.ModelTag, ({"model_id": key, "tag": tag} for key, tag in named))
    add_downloads(community)
    rows.add(
        tables.BaseFile,
        ({"model_id": key, "path": "model.safetensors", "sha256": digest("base", n)} for n, key in enumerate(models)),
    )
    add_base_tensors(community)


def model_row(community: Community, n: int, name: str) -> dict[str, Any]:
    """Return the row of a model; the first is the large one, of its own owner."""
    people, spaces, at = community.people, community.spaces, START + timedelta(minutes=n)
    return {
        "id": community.models[n],
        "namespace_id": community.space if n == 0 else spaces[n % len(spaces)],
        "name": name,
        "creator_id": community.owner if n == 0 else people[n % len(people)],
        "license": "apache-2.0",
        "state": "ready",
        "base_digest": BASE,
        "base_commit": digest("base commit", n)[:40],
        "parameters": 600_000_000,
        "dtypes": {"BF16": 600_000_000},
        "required_evaluations": [],
        "size": SIZE,
        "card": "# A card\n\n" + "Some words. " * 200,
        "patch_count": community.counts[n],
        "created_at": at,
        "modified_at": at,
    }


def add_downloads(community: Community) -> None:
    """Add the downloads of each model on each of the last sixty days."""
    today = tables.now().date()
    counted = ((key, today - timedelta(days=back)) for key in community.models for back in range(60))
    community.rows.add(
        tables.ModelDownloads,
        ({"model_id": key, "day": day, "count": community.chance.randrange(1000)} for key, day in counted),
    )


def add_base_tensors(community: Community) -> None:
    """Add the tensors of some bases."""
    community.rows.add(
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
            for key in community.models[:DETAILED]
            for place, name in enumerate(TENSORS)
        ),
    )


def add_trigrams(community: Community) -> None:
    """Add what search looks up."""
    names = enumerate(model_names(community))
    full = ((n, NAME if n == 0 else f"{person(n % len(community.people))}/{name}") for n, name in names)
    community.rows.add(
        tables.ModelTrigram,
        ({"trigram": part, "model_id": community.models[n]} for n, name in full for part in set(search.trigrams(name))),
    )
