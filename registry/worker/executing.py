"""Executors: who composes the weight files of a recipe that are missing - processes here, or the nodes of a cluster.

Both yield parts as they come, with the file here that holds one, if its bytes are not in the store yet. The worker
records them; the job's row stays the truth, and its lease is renewed meanwhile.
"""

import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

import registry
from registry.errors import (
    BlobDamaged,
    JobFailed,
    StorageFailed,
    StorageFull,
    TooMany,
    Unavailable,
    WrongState,
    by_slug,
)
from registry.services.composing.parts import ComposedPart, Tensors
from registry.services.queue import jobs
from registry.storage.pieces import Excerpt
from registry.worker.cluster.link import Away, Cluster, Outcome, Place
from registry.worker.runner import NO_FENCE, VERIFIED_FOR, Postponed, Runner

log = structlog.get_logger()
AT_ONCE = 4
"""Weight files that a process composes before they are recorded: as many as it has in work at a time."""

MOST_LOSSES = 3
"""How often a part is lost before the job fails: some parts end whatever machine composes them."""

SPARED = 4
"""A first build leaves one of so many nodes out, and at least one of two, so that there are others to confirm it."""

OF_A_NODE = (StorageFailed, StorageFull, TooMany, Unavailable)
"""Errors that another node may not have."""

Made = Generator[tuple[ComposedPart, Path | None]]


@dataclass(frozen=True)
class Work:
    """Weight files to compose.

    Args:
        names: Which are missing, of `total`.
        total: How many the model has.
        base: The sha256 of each weight file of the base by its path.
        sizes: Their bytes.
        paths: Their paths on this machine; empty where they are not here.
        tensors: (name, dtype, shape, sha256) of all tensors of the base.
        patches: Path of each patch by its sha256, whether or not it is here.
        excerpts: What is needed of those of them that are not needed whole.
        recipe: `base`, `alpha`, `items` and `method`, as `make_recipe` takes them.
        folder: The staging folder of the job; None to find out digests alone.
        excluded: Nodes that are to have no share in it.
        again: Whether it is a build that is to confirm another.
    """

    names: tuple[str, ...]
    total: int
    base: Mapping[str, str]
    sizes: Mapping[str, int]
    paths: Mapping[str, str]
    tensors: Tensors
    patches: Mapping[str, str]
    excerpts: Mapping[str, Excerpt]
    recipe: Mapping[str, Any]
    folder: Path | None
    excluded: frozenset[str] = frozenset()
    again: bool = False


@dataclass(frozen=True)
class Share:
    """A weight file that a node composes.

    Args:
        file: Its name.
        node: The id of the node.
        name: The name of the node, which it may not be asked for any more once it has left.
    """

    file: str
    node: str
    name: str


@dataclass(frozen=True)
class Loss:
    """A file that a node was to compose and did not; `died` says whether the node or its process did."""

    node: str
    died: bool


class Executor(Protocol):
    """Composes weight files."""

    def compose(self, claim: jobs.Claim, work: Work) -> Made:
        """Compose weight files, and yield each with its file here, if it has one that the store has not taken.

        Raises:
            JobCancelled, LeaseLost, Stopped, Hung: The work was given up.
            Postponed: It cannot be done now.
            BreadcrumbError: The work failed.
        """


class Processes:
    """Composes in sandboxes on this machine, several files in each call.

    Args:
        runner: Runs them.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def compose(self, claim: jobs.Claim, work: Work) -> Made:
        """Compose weight files, `AT_ONCE` at a time; see `Executor`."""
        settings, before = self.runner.settings, work.total - len(work.names)
        verified_at = float("-inf")
        for first in range(0, len(work.names), AT_ONCE):
            batch = work.names[first : first + AT_ONCE]
            fresh = time.monotonic() - verified_at < VERIFIED_FOR
            verified_at = verified_at if fresh else time.monotonic()
            made = self.runner.in_sandbox(
                claim,
                "registry.sandboxes.parts:compose_files",
                keep=True,
                grows=work.folder is not None,
                done=((before + first) / work.total, len(batch) / work.total),
                base={name: (work.paths[name], work.base[name]) for name in batch},
                tensors=work.tensors,
                patches=work.patches,
                excerpts={sha256: excerpt.listed for sha256, excerpt in work.excerpts.items()},
                recipe=work.recipe,
                out=None if work.folder is None else str(work.folder),
                device=settings.device,
                device_memory=settings.device_memory,
                verified=fresh,
            )
            for name, file in made["files"].items():
                seconds = made["seconds"] / len(batch)
                part = ComposedPart(name, **file, builder=self.runner.name, device=made["device"], seconds=seconds)
                yield part, None if work.folder is None else work.folder / name


class Nodes:
    """Composes on the nodes of a cluster, one file in each place of a node.

    The largest files go first. A part whose node or process died goes to a node that has not lost it yet. What a node
    says of a damaged or impossible input is the job's error; that its disk or bucket failed is a loss like any other.
    A node that is not set up for this registry gets no other file of the job.

    Args:
        runner: Keeps the lease meanwhile.
        cluster: Has the nodes.
    """

    def __init__(self, runner: Runner, cluster: Cluster) -> None:
        self.runner, self.cluster = runner, cluster
        self.losses: dict[str, list[Loss]] = {}  # by file
        self.unfit: dict[str, str] = {}  # why, by node

    def compose(self, claim: jobs.Claim, work: Work) -> Made:
        """Compose weight files, each on a node; see `Executor`."""
        try:
            with closing(self._compose(claim, work)) as made:
                yield from made
        except Away as why:
            raise Postponed(str(why)) from None

    def _compose(self, claim: jobs.Claim, work: Work) -> Made:
        waiting = sorted(work.names, key=lambda name: (-work.sizes[name], name))
        running: dict[str, Share] = {}  # by key
        owner, shared = self.runner.store.owner(), self.runner.store.kind == "disk"
        beat = self.runner.beating(claim, lambda: 1 - (len(waiting) + len(running)) / work.total)
        while not self.cluster.ready(0.25):
            beat()
        self.cluster.share({"registry": owner, **self.ask(claim, work)})
        try:
            while waiting or running:
                for share in self.assign(waiting, running.values(), work):
                    waiting.remove(share.file)
                    key = uuid.uuid4().hex
                    running[key] = share
                    part = {"key": key, "path": share.file, "sha256": work.base[share.file]}
                    self.cluster.submit(key, share.node, part)
                for outcome in self.cluster.wait(0.25):
                    share = running.pop(outcome.key)
                    if (composed := self.take(outcome, share)) is None:
                        waiting.append(share.file)
                        continue
                    staged = work.folder / outcome.key / share.file if work.folder is not None and shared else None
                    yield composed, staged
                beat()
        finally:
            self.cluster.cancel(list(running))

    def assign(self, waiting: list[str], running: Collection["Share"], work: Work) -> Iterator["Share"]:
        """Yield shares for as many files as nodes have places, the emptiest node first.

        Raises:
            Postponed: There is no node that may compose.
        """
        nodes = self.allowed(work)
        spared = set() if work.again else spare(nodes, str(work.recipe))
        used = Counter(share.node for share in running)
        for name in list(waiting):
            lost = {loss.node for loss in self.losses.get(name, ())}
            fresh = nodes.keys() - lost  # another that has not lost it may be busy, and the file waits for it
            free = [node for node in fresh - spared or fresh or nodes if used[node] < nodes[node].slots]
            if free:
                node = min(free, key=lambda node: (used[node], nodes[node].name))
                used[node] += 1
                yield Share(name, node, nodes[node].name)

    def allowed(self, work: Work) -> dict[str, Place]:
        """Return the nodes that may have a share in the work, by their ids.

        Raises:
            Postponed: There are none.
        """
        nodes = self.cluster.nodes()
        others = {node: place for node, place in nodes.items() if place.name not in work.excluded}
        allowed = {node: place for node, place in others.items() if node not in self.unfit}
        if not nodes:
            raise Postponed("The cluster has no node that can compose now.")
        if not others:
            raise Postponed(
                f"{jobs.OTHER_BUILDER}every node of the cluster has a share in the build that this one is to confirm. "
                "Start another node, or a worker without --ray."
            )
        if not allowed:
            raise Postponed(self.unfit[min(others)])
        return allowed

    def take(self, outcome: Outcome, share: "Share") -> ComposedPart | None:
        """Return the part that came of a submission; None if it is lost, which is noted.

        Raises:
            JobFailed: It was lost too often.
            Postponed: So often nodes had no place for it, or could not do it.
            StorageFull, StorageFailed: So it was, the last time by a disk or by the bucket, which puts the job off.
            BreadcrumbError: The node's task raised it.
        """
        content = outcome.content
        if "part" in content:
            if not content["fenced"] and share.name not in self.runner.unfenced:
                self.runner.unfenced.add(share.name)
                log.warning("node.no_fence", node=share.name, hint=NO_FENCE)
            return ComposedPart(**content["part"], builder=share.name)
        died, problem = "lost" in content, Exception(content.get("busy") or content.get("lost"))
        if "error" in content:
            error = content["error"]
            problem = by_slug().get(error["slug"], JobFailed)(error["message"], field=error["field"])
            if isinstance(problem, WrongState):
                self.unfit[share.node] = error["message"]
                return None
            if isinstance(problem, BlobDamaged) or not isinstance(problem, OF_A_NODE):
                raise problem
        losses = self.losses.setdefault(share.file, [])
        losses.append(Loss(share.node, died))
        if len(losses) < MOST_LOSSES:
            return None
        if all(loss.died for loss in losses):
            raise JobFailed(
                f"{share.file} was lost {MOST_LOSSES} times by the nodes that composed it. The last: {problem}"
            )
        raise problem if isinstance(problem, StorageFailed | StorageFull) else Postponed(str(problem))

    def ask(self, claim: jobs.Claim, work: Work) -> dict[str, Any]:
        """Return what nodes are sent for all parts of a job; see `Node.compose`."""
        settings = self.runner.settings
        return {
            "version": registry.version(),
            "job": f"job-{claim.job_id.hex}-{claim.attempt}",
            "stored": work.folder is not None,
            "tensors": work.tensors,
            "patches": list(work.patches),
            "excerpts": {sha256: [excerpt.size, excerpt.listed] for sha256, excerpt in work.excerpts.items()},
            "recipe": work.recipe,
            "device": settings.device if settings.device == "cuda" else "cpu",
            "device_memory": settings.device_memory,
            "threads": self.cluster.cpus,
        }


def spare(nodes: Mapping[str, Place], recipe: str) -> set[str]:
    """Return the ids of nodes that have no share in the first build of a recipe, whichever others come and go."""

    def weight(node: str) -> bytes:
        return hashlib.sha256(f"{recipe} {nodes[node].name}".encode()).digest()

    return set(sorted(nodes, key=weight)[: max(len(nodes) // SPARED, min(len(nodes) - 1, 1))])
