"""Executors: who composes the weight files of a recipe that are missing - processes here, or the nodes of a cluster.

Both yield parts as they come, with the file here that holds one, if its bytes are not in the store yet. The worker
records them; the job's row stays the truth, and its lease is renewed meanwhile.
"""

import uuid
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import registry
from registry.errors import BlobDamaged, JobFailed, StorageFailed, StorageFull, by_slug
from registry.services.composing.parts import Part, Tensors
from registry.services.queue import jobs
from registry.storage.pieces import Excerpt
from registry.worker.cluster.link import Away, Cluster, Outcome, Place
from registry.worker.runner import Postponed, Runner

AT_ONCE = 4
"""Weight files that a process composes before they are recorded: as many as it has in work at a time."""

MOST_LOSSES = 3
"""How often a part is lost before the job fails: some parts end whatever machine composes them."""

Made = Generator[tuple[Part, Path | None]]


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
        for first in range(0, len(work.names), AT_ONCE):
            batch = work.names[first : first + AT_ONCE]
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
                verified=first > 0,
            )
            for name, file in made["files"].items():
                seconds = made["seconds"] / len(batch)
                part = Part(name, **file, builder=self.runner.name, device=made["device"], seconds=seconds)
                yield part, None if work.folder is None else work.folder / name


class Nodes:
    """Composes on the nodes of a cluster, one file in each place of a node.

    The largest files go first. A part whose node or process died goes to a node that has not lost it yet. What a node
    says of a damaged or impossible input is the job's error; that its disk or bucket failed is a loss like any other.

    Args:
        runner: Keeps the lease meanwhile.
        cluster: Has the nodes.
    """

    def __init__(self, runner: Runner, cluster: Cluster) -> None:
        self.runner, self.cluster = runner, cluster

    def compose(self, claim: jobs.Claim, work: Work) -> Made:
        """Compose weight files, each on a node; see `Executor`."""
        try:
            with closing(self._compose(claim, work)) as made:
                yield from made
        except Away as why:
            raise Postponed(str(why)) from None

    def _compose(self, claim: jobs.Claim, work: Work) -> Made:
        waiting = sorted(work.names, key=lambda name: (-work.sizes[name], name))
        running: dict[str, tuple[str, str]] = {}  # key -> file and node
        lost: dict[str, list[str]] = {}  # file -> nodes
        owner, shared = self.runner.store.owner(), self.runner.store.kind == "disk"
        beat = self.runner.beating(claim, lambda: 1 - (len(waiting) + len(running)) / work.total)
        try:
            while waiting or running:
                for name, node in self.assign(waiting, running, lost, work):
                    waiting.remove(name)
                    key = f"{name} {uuid.uuid4().hex}"
                    running[key] = name, node
                    self.cluster.submit(key, node, {"registry": owner, **self.ask(claim, work, name)})
                for outcome in self.cluster.wait(0.25):
                    name, node = running.pop(outcome.key)
                    if (part := self.take(outcome, name, node, lost)) is None:
                        waiting.append(name)
                        continue
                    yield part, work.folder / name if work.folder is not None and shared else None
                beat()
        finally:
            self.cluster.cancel(list(running))

    def assign(
        self,
        waiting: list[str],
        running: Mapping[str, tuple[str, str]],
        lost: Mapping[str, list[str]],
        work: Work,
    ) -> Iterator[tuple[str, str]]:
        """Yield (file, node) for as many files as nodes have places, the emptiest node first.

        Raises:
            Postponed: There is no node that may compose.
        """
        nodes = self.allowed(work)
        used = Counter(node for _, node in running.values())
        for name in list(waiting):
            free = [node for node, place in nodes.items() if used[node] < place.slots]
            if not free:
                return
            fresh = [node for node in free if node not in lost.get(name, ())]
            if not fresh and set(nodes) - set(lost.get(name, ())):
                continue  # another node has not lost it, and is busy
            node = min(fresh or free, key=lambda node: (used[node], nodes[node].name))
            used[node] += 1
            yield name, node

    def allowed(self, work: Work) -> dict[str, Place]:
        """Return the nodes that may have a share in the work, by their ids.

        Raises:
            Postponed: There are none.
        """
        nodes = self.cluster.nodes()
        allowed = {node: place for node, place in nodes.items() if place.name not in work.excluded}
        if not allowed:
            raise Postponed(
                "Every node of the cluster has a share in the build that this one is to confirm; start another node, "
                "or a worker without --ray."
                if nodes
                else "The cluster has no node that can compose now."
            )
        return allowed

    def take(self, outcome: Outcome, name: str, node: str, lost: dict[str, list[str]]) -> Part | None:
        """Return the part that came of a submission; None if it is lost, which is noted.

        Raises:
            JobFailed: It was lost too often.
            Postponed: So often no node had a place for it.
            StorageFull, StorageFailed: So it was, by disks or by the bucket, which puts the job off.
            BreadcrumbError: The node's task raised it.
        """
        content = outcome.content
        if "part" in content:
            place = self.cluster.nodes().get(node)
            return Part(**content["part"], builder=place.name if place else f"ray:{node}")
        problem: Exception
        if "busy" in content:
            problem = Postponed(content["busy"])
        elif "lost" in content:
            problem = JobFailed(
                f"{name} was lost {MOST_LOSSES} times by the nodes that composed it. The last: {content['lost']}"
            )
        else:
            error = content["error"]
            problem = by_slug().get(error["slug"], JobFailed)(error["message"], field=error["field"])
            if not isinstance(problem, StorageFailed | StorageFull) or isinstance(problem, BlobDamaged):
                raise problem
        lost.setdefault(name, []).append(node)
        if len(lost[name]) >= MOST_LOSSES:
            raise problem
        return None

    def ask(self, claim: jobs.Claim, work: Work, name: str) -> dict[str, Any]:
        """Return what a node is sent; see `Node.compose`."""
        settings = self.runner.settings
        return {
            "version": registry.version(),
            "job": f"job-{claim.job_id.hex}-{claim.attempt}",
            "path": name,
            "sha256": work.base[name],
            "stored": work.folder is not None,
            "tensors": work.tensors,
            "patches": list(work.patches),
            "excerpts": {sha256: [excerpt.size, excerpt.listed] for sha256, excerpt in work.excerpts.items()},
            "recipe": work.recipe,
            "device": settings.device if settings.device == "cuda" else "cpu",
            "device_memory": settings.device_memory,
            "threads": self.cluster.cpus,
        }
