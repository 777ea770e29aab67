"""Sums of conflicts: what is stored of pairs and sets of patches, by content alone, and what follows from it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Dialect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.breadcrumbs.comparing.sums import Sums, total
from registry.db.tables import Model, PatchPair, PatchRevision, PatchSet, PatchTensor, Table

ROWS_PER_INSERT = 200

Pair = tuple[str, str]  # of sha256 digests, the lesser one first


def finish(session: Session, digests: Iterable[str], computed: Mapping[str, Any]) -> None:
    """Record the conflicts that a worker computed; another worker may be recording the same."""
    pairs = []
    for row in computed["pairs"]:
        first, second = row["first"], row["second"]
        tensors = {name: Sums(**sums) for name, sums in row["tensors"].items()}
        pairs.append(
            {
                "first_sha256": first,
                "second_sha256": second,
                "sums": asdict(total(tensors.values())),
                "tensors": row["tensors"],
            }
        )
    pairs.sort(key=lambda row: (row["first_sha256"], row["second_sha256"]))  # one order, no deadlock
    for start in range(0, len(pairs), ROWS_PER_INSERT):
        add_missing(session, PatchPair, pairs[start : start + ROWS_PER_INSERT])
    add_missing(session, PatchSet, [{"digest": set_digest(digests), "census": computed["census"]}])


def add_missing(session: Session, table: type[Table], rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, except those whose keys exist already."""
    dialect: Dialect = session.get_bind().dialect
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    session.execute(insert(table).on_conflict_do_nothing(), rows)


def pairs_of(session: Session, digests: Sequence[str]) -> dict[Pair, dict[str, Any]]:
    """Return the sums of all known pairs among patches."""
    query = select(PatchPair.first_sha256, PatchPair.second_sha256, PatchPair.sums).where(
        PatchPair.first_sha256.in_(digests), PatchPair.second_sha256.in_(digests)
    )
    return {(first, second): sums for first, second, sums in session.execute(query)}


def energy(session: Session, revisions: Sequence[PatchRevision]) -> dict[str, list[float]]:
    """Return the share of each patch in the sum of their squared norms, tensor by tensor."""
    return {
        name: [part / whole for part in parts] if (whole := sum(parts)) else parts
        for name, parts in squares(session, revisions).items()
    }


def squares(session: Session, revisions: Sequence[PatchRevision]) -> dict[str, list[float]]:
    """Return the squared norm of each patch, tensor by tensor, in name order."""
    places = {revision.id: place for place, revision in enumerate(revisions)}
    query = select(PatchTensor.name, PatchTensor.revision_id, PatchTensor.l2).where(
        PatchTensor.revision_id.in_(list(places))
    )
    by_tensor: dict[str, list[float]] = {}
    for name, revision_id, l2 in session.execute(query):
        by_tensor.setdefault(name, [0.0] * len(places))[places[revision_id]] = l2 * l2
    return dict(sorted(by_tensor.items()))


def touched_by(model: Model, count: int, census: Iterable[Sequence[int]]) -> list[int]:
    """Return how many weights of a whole base are touched by 0, 1, ... and `count` patches."""
    touched = [0] * (count + 1)
    for counts in census:
        for place, number in enumerate(counts[1:], 1):
            touched[place] += number
    touched[0] = (model.parameters or 0) - sum(touched)
    return touched


def ordered(first: str, second: str, sums: Mapping[str, Any]) -> Sums:
    """Return the sums of a pair in the order in which it is named; they are stored in the order of the digests."""
    stored = Sums(**sums)
    if first < second:
        return stored
    return replace(
        stored,
        first=stored.second,
        second=stored.first,
        first_squares=stored.second_squares,
        second_squares=stored.first_squares,
        first_overlap_squares=stored.second_overlap_squares,
        second_overlap_squares=stored.first_overlap_squares,
        first_l1=stored.second_l1,
        second_l1=stored.first_l1,
    )


def key_of(first: str, second: str) -> Pair:
    """Return the key of a pair."""
    return (first, second) if first < second else (second, first)


def set_digest(digests: Iterable[str]) -> str:
    """Return the sha256 over sorted digests, one per line."""
    return hashlib.sha256("".join(f"{sha256}\n" for sha256 in sorted(digests)).encode()).hexdigest()
