"""Patches with their revisions, jobs, checks and reviews; tensors and conflicts of those of the large model."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from benchmarks.server.community.rows import START
from benchmarks.server.community.sizes import BASE, NAME, SHAPE, TENSORS, Community, digest
from registry.breadcrumbs.comparing.sums import Sums
from registry.db import tables

STATES = ("withdrawn", "accepted", "accepted", "rejected", "draft", "yanked", "rejected", "superseded", "accepted")
CHECKS = ("format", "base", "finite", "density", "norms")
COMPARED = 60  # of the large model
QUARANTINED = 1000  # every thousandth patch is
REVIEWERS = 40
NNZ = len(TENSORS) * SHAPE[0] * SHAPE[1] // 7


@dataclass(frozen=True)
class Patch:
    """A patch with one revision, as its rows need it."""

    key: uuid.UUID
    revision: uuid.UUID
    model: uuid.UUID
    number: int
    author: uuid.UUID
    sha256: str
    at: datetime

    def blob_row(self) -> dict[str, Any]:
        """Return the row of its file."""
        return {"sha256": self.sha256, "size": 3 * NNZ, "created_at": self.at}

    def patch_row(self) -> dict[str, Any]:
        """Return the row of the patch."""
        held = self.number % QUARANTINED == QUARANTINED // 5
        return {
            "id": self.key,
            "model_id": self.model,
            "number": self.number,
            "state": "proposed" if self.number % 50 == 0 else STATES[self.number % len(STATES)],
            "author_id": self.author,
            "task": f"t/{self.number % 9}",
            "quarantined_at": self.at if held else None,
            "quarantine_reason": "A report." if held else None,
            "created_at": self.at,
        }

    def revision_row(self) -> dict[str, Any]:
        """Return the row of its revision."""
        return {
            "id": self.revision,
            "patch_id": self.key,
            "number": 1,
            "state": "checked",
            "title": f"Patch {self.number}: what it does in some words",
            "message": "It does *this*. " * 8,
            "license": "apache-2.0",
            "base_digest": BASE,
            "sha256": self.sha256,
            "blob_sha256": self.sha256,
            "size": 3 * NNZ,
            "nnz": NNZ,
            "density": 0.05 + 0.1 * (self.number % 7) / 7,
            "drop_bottom": "0.85",
            "drop_top": "0.007",
            "granularity": "tensor",
            "value_dtype": "BF16",
            "created_at": self.at,
        }

    def job_row(self, key: uuid.UUID) -> dict[str, Any]:
        """Return the row of the job that checked it."""
        return {
            "id": key,
            "kind": "check",
            "key": f"check:{self.revision}",
            "state": "done",
            "model": NAME,
            "subject": f"#{self.number}",
            "payload": {"model_id": str(self.model)},
            "user_id": self.author,
            "progress": 1.0,
            "created_at": self.at,
            "finished_at": self.at,
        }

    def check_rows(self) -> list[dict[str, Any]]:
        """Return the rows of its checks."""
        return [
            {
                "revision_id": self.revision,
                "name": name,
                "position": place,
                "required": True,
                "status": "pass",
                "summary": "Good.",
            }
            for place, name in enumerate(CHECKS)
        ]

    def review_row(self, key: uuid.UUID, reviewer: uuid.UUID) -> dict[str, Any]:
        """Return the row of a review."""
        return {
            "id": key,
            "revision_id": self.revision,
            "reviewer_id": reviewer,
            "verdict": "approve",
            "message": "Good.",
            "created_at": self.at,
        }


def add_patches(community: Community) -> None:
    """Add the patches of every model, and the tensors and reviewers of those of the large one."""
    serial = 0
    for n, count in enumerate(community.counts):
        patches = patches_of(community, n, count, serial)
        serial += count
        add_rows(community, patches)
        if n == 0:
            add_tensors(community, [patch.revision for patch in patches])
            add_reviewers(community)


def patches_of(community: Community, n: int, count: int, before: int) -> list[Patch]:
    """Return the patches of a model; so many of other models are older."""
    people, keys = community.people, [(community.key(), community.key()) for _ in range(count)]
    return [
        Patch(
            key,
            revision,
            community.models[n],
            number,
            author=community.owner if number % 997 == 0 else people[number * 7 % len(people)],
            sha256=digest("patch", n, number),
            at=START + timedelta(seconds=100 * (before + number)),
        )
        for number, (key, revision) in enumerate(keys, 1)
    ]


def add_rows(community: Community, patches: Sequence[Patch]) -> None:
    """Add some patches and what was done to them; every fourth is reviewed."""
    rows, jobs, reviews = community.rows, list[dict[str, Any]](), list[dict[str, Any]]()
    for patch in patches:
        jobs.append(patch.job_row(community.key()))
        if patch.number % 4 == 0:
            reviewer = community.people[(patch.number * 11 + 3) % min(REVIEWERS, len(community.people))]
            reviews.append(patch.review_row(community.key(), reviewer))
    rows.add(tables.Blob, (patch.blob_row() for patch in patches))
    rows.add(tables.Patch, (patch.patch_row() for patch in patches))
    rows.add(tables.PatchRevision, (patch.revision_row() for patch in patches))
    rows.add(tables.Job, jobs)
    rows.add(tables.Check, (row for patch in patches for row in patch.check_rows()))
    rows.add(tables.Review, reviews)


def add_tensors(community: Community, revisions: list[uuid.UUID]) -> None:
    """Add what the newest revisions do to each tensor."""
    share = SHAPE[0] * SHAPE[1] // 7
    community.rows.add(
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
            for key in revisions[-(community.sizes.tensors // len(TENSORS)) :]
            for place, name in enumerate(TENSORS)
        ),
    )


def add_reviewers(community: Community) -> None:
    """Let forty people review the patches of the large model."""
    model, people = community.models[0], community.people[:REVIEWERS]
    members = ({"model_id": model, "user_id": key, "role": "reviewer"} for key in people)
    community.rows.add(tables.ModelMember, members)


def add_pairs(community: Community) -> None:
    """Add the conflicts among some patches of the large model."""
    whole = {one.name: 0.5 if one.type in (float, "float") else 1000 for one in fields(Sums)}
    known = sorted(digest("patch", 0, number) for number in range(1, 1 + COMPARED))
    pairs = ((first, second) for place, first in enumerate(known) for second in known[place + 1 :])
    community.rows.add(
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
