"""Composing: a worker composes recipes, file by file where a model has many, and composes them again to compare.

few weight files    one process composes them all
more                some at a time; each is recorded as a part of the job once its bytes are durable, so that whoever
                    takes the job over goes on with what is missing
again               one process, whatever others have left
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.breadcrumbs.composing.variances import tell_negative
from registry.db.tables import JobPart, Recipe
from registry.documents.composed_card import CardItem, render_card
from registry.errors import JobFailed
from registry.files.folders import carried, concerns_weights, is_weights, left_out
from registry.files.hashing import hash_file
from registry.services.blobs import blobs, damage, texts
from registry.services.catalog import hub_bases, models
from registry.services.composing import builds, compositions, holding, parts
from registry.services.composing.parts import ComposedPart, Tensors
from registry.services.queue import jobs
from registry.services.releasing import releases
from registry.storage.pieces import Excerpt
from registry.worker.cluster.link import Cluster
from registry.worker.executing import AT_ONCE, Executor, Nodes, Processes, Work
from registry.worker.runner import Postponed
from registry.worker.upkeep import Upkeep


@dataclass(frozen=True)
class Asked:
    """A composition that is asked for.

    Args:
        folder: Where files are written before they become blobs; None to keep their digests alone.
        base: The sha256 of each file of the base by its path.
        paths: Where those of them are, or would be, on this machine that hold or describe weights.
        recipe: What to compose.
        excerpts: What is needed of the patches that are not needed whole.
        far: Whether the weights are composed where they are, and not on this machine.
        again: Whether to compose all of it, whatever is recorded.
        excluded: Nodes that are to have no share in it.
    """

    folder: Path | None
    base: dict[str, str]
    paths: dict[str, str]
    recipe: Recipe
    excerpts: Mapping[str, Excerpt]
    far: bool
    again: bool
    excluded: frozenset[str]


class Composer(Upkeep):
    """Composes for a worker, on the nodes of a cluster if it has one."""

    cluster: Cluster | None = None

    def compose(self, claim: jobs.Claim) -> None:
        """Compose a recipe and record the composition; its files are stored if there is room, else only their digests.

        One that is recorded already gets its files again: they were damaged, or are to be held.
        """
        with self.database.read() as session:
            model, recipe = self.model(session, claim), compositions.load(session, claim.payload["recipe"])
            compositions.require_ingredients(session, model, recipe)
            files_of_base = models.base_files(session, model)
            base = {file.path: file.sha256 for file in files_of_base}
            named = compositions.described(session, model, recipe)
            size = sum(file.blob.size for file in files_of_base if is_weights(file.path))
            known = compositions.composition_of(session, model, recipe.digest)
            size -= parts.stored_bytes(session, claim.job_id)
        repaired = known is not None and known.held
        held = repaired or holding.make_room(self.database, self.store, size, self.settings.composed_bytes)
        if known is not None and not held and not compositions.is_damaged(known):
            with self.base_here(claim), self.database.write() as session:  # a reader may wait for a base from the Hub
                jobs.end(session, claim, "done")
            return
        with self.database.read() as session:
            result = compositions.reusable(session, model, recipe.digest, held=held)
        with self.store.folder(f"job-{claim.job_id.hex}-{claim.attempt}") as folder:
            if result is None:
                result = self.compose_into(folder if held else None, claim, base, recipe) | {"builder": self.name}
            others = {path: base[path] for path in carried(base, result["files"])}
            card = render_card(
                model.full_name,
                model.full_name,
                compositions.to_recipe(recipe),
                result["weights_digest"],
                [CardItem(item.sha256, revision.patch.number, revision.title) for item, revision in named if revision],
                texts.read_card(self.store, base),
                left_out(base, result["files"]),
            )
            (folder / "README.md").write_text(card)
            files = {**others, **result["files"], "README.md": hash_file(folder / "README.md")}
            made = {name: folder / name for name in ("README.md", *result.get("staged", ()))}  # not what others left
            for name, file in made.items():
                self.store.send_ahead(file, files[name], self.beating(claim))
            with self.database.write() as session:
                job, model = jobs.hold(session, claim), self.model(session, claim)
                if alarm := parts.alarm(session, model, recipe.digest, claim.job_id):  # of one that came just now
                    jobs.end(session, claim, "failed", alarm)
                    releases.failed(session, model, recipe.digest)
                    return
                for name in sorted(result.get("sizes", {}) | made, key=lambda name: files[name]):  # one order
                    if (path := made.get(name)) is not None:
                        blobs.register(session, self.store, path, files[name], path.stat().st_size)
                    else:
                        blobs.refer(session, files[name], result["sizes"][name], "computed")
                if held and not made.keys() >= result.get("sizes", {"of another model": 0}).keys():
                    weights = {sha256 for path, sha256 in files.items() if is_weights(path)}
                    held = blobs.lease(session, weights).keys() >= weights  # the other's may have been let go of since
                composition = compositions.composition_of(session, model, recipe.digest)
                if composition is not None:
                    composition.held = held
                else:
                    compositions.finish(
                        session,
                        model,
                        recipe.digest,
                        result["weights_digest"],
                        result["device"],
                        result["seconds"],
                        files,
                        result["builder"],
                        job.user_id,
                        result["warnings"],
                        held=held,
                        nodes=result.get("nodes"),
                    )
                    releases.composed(session, model, recipe.digest)
                jobs.end(session, claim, "done")

    def compose_into(
        self,
        folder: Path | None,
        claim: jobs.Claim,
        base: dict[str, str],
        recipe: Recipe,
        *,
        again: bool = False,
        excluded: frozenset[str] = frozenset(),
    ) -> dict[str, Any]:
        """Compose the weight files of a recipe into a folder, if there is one; else only find out their digests.

        Of a model with many files, and on a cluster of any, those that are recorded as parts of the job are blobs
        afterwards, and not in the folder. A process that has composed on a GPU is kept for the next composition.

        Args:
            folder: Where to.
            claim: The job.
            base: The sha256 of each file of the base by its path.
            recipe: What to compose.
            again: Whether to compose all of it, by a process that has done nothing else, whatever is recorded.
            excluded: Nodes of a cluster that are to have no share in it.
        """
        wanted = compositions.to_recipe(recipe)
        used = [item.sha256 for item in wanted.items]
        damage.require_sound(self.database, self.store, [*base.values(), *used])
        with self.database.read() as session:
            model = self.model(session, claim)
            at_hub = bool(hub_bases.remote(session, model))
            excerpts = compositions.excerpts_of(session, model, wanted)
        in_bucket = self.store.kind == "bucket"
        cluster = None if at_hub and in_bucket else self.cluster  # nodes fetch from the bucket, and not from a Hub
        far = cluster is not None and in_bucket
        needed = {base[path] for path in base if concerns_weights(path) and not (far and is_weights(path))}
        whole, parted = (needed, ()) if far else ({*needed, *used} - excerpts.keys(), excerpts.values())
        with self.base_here(claim), self.here(claim, whole, parted) as found:
            asked = Asked(folder, base, self.readable(base), recipe, excerpts, far, again, excluded)
            ask: dict[str, Any] = {
                "patches": {sha256: found.get(sha256, "") for sha256 in used},
                "recipe": {
                    "base": wanted.base,
                    "alpha": wanted.alpha,
                    "items": wanted.items,
                    "method": wanted.method,
                },
            }
            try:
                if cluster is not None:
                    return self.compose_parts(Nodes(self, cluster), claim, asked, ask)
                if not again and sum(map(is_weights, base)) > AT_ONCE:
                    return self.compose_parts(Processes(self), claim, asked, ask)
                self.require_room(folder, (Path(file).stat().st_size for file in asked.paths.values()))
                result: dict[str, Any] = self.in_sandbox(
                    claim,
                    "registry.sandboxes.tasks:compose",
                    keep=not again and self.settings.device != "cpu",
                    grows=folder is not None,
                    base={path: (file, base[path]) for path, file in asked.paths.items()},
                    out=None if folder is None else str(folder),
                    device=self.settings.device,
                    device_memory=self.settings.device_memory,
                    excerpts={sha256: excerpt.listed for sha256, excerpt in excerpts.items()},
                    **ask,
                )
                self.device = result["device"]
                return result | {"staged": list(result["sizes"]) if folder else []}
            finally:
                if self.kept and self.device != "cuda":
                    self.kept.kill()
                    self.kept = None

    def compose_parts(
        self, executor: Executor, claim: jobs.Claim, asked: "Asked", ask: dict[str, Any]
    ) -> dict[str, Any]:
        """Have an executor compose those weight files of a recipe that are not recorded yet, and record them.

        What is composed again, to compare, uses no recorded parts, and is recorded as a whole alone.

        Args:
            executor: Composes.
            claim: The job.
            asked: What to compose.
            ask: `patches` and `recipe`, as of `Work`.

        Raises:
            JobFailed: Two results of a part differ.
        """
        stored = asked.folder is not None
        with self.database.read() as session:
            model = self.model(session, claim)
            tensors = models.base_tensors(session, model)
            sizes = {file.path: file.blob.size for file in models.base_files(session, model)}
            finished = set() if asked.again else parts.finished(session, self.store, claim.job_id, stored=stored)
        absent = [path for path in asked.paths if asked.far and is_weights(path)]
        here = {path: file for path, file in asked.paths.items() if path not in absent}
        listed = self.in_sandbox(
            claim, "registry.sandboxes.parts:list_files", done=(0.0, 0.0), files=here, absent=absent
        )
        names = tuple(name for name in listed["files"] if name not in finished)
        if not asked.far:
            self.require_room(asked.folder, (sizes[name] for name in names))
        work = Work(
            names, len(listed["files"]), asked.base, sizes, here, tensors, folder=asked.folder,
            excerpts=asked.excerpts, excluded=asked.excluded, again=asked.again, **ask,
        )  # fmt: skip
        made: list[ComposedPart] = []
        with closing(executor.compose(claim, work)) as parts_made:
            for part, staged in parts_made:
                self.device = part.device
                made.append(part)
                if not asked.again:
                    self.record(claim, asked.recipe, part, staged, stored=stored)
        indexes = {index: asked.base[index] for index in listed["indexes"]}
        if asked.again:
            return summary(tensors, made, indexes, self.name)
        with self.database.write() as session:
            recorded = parts.recorded(session, claim.job_id)
            alarm = parts.alarm(session, self.model(session, claim), asked.recipe.digest, claim.job_id)
        if alarm:
            raise JobFailed(alarm)
        return summary(tensors, [recorded[name][0] for name in listed["files"]], indexes, self.name)

    def record(
        self, claim: jobs.Claim, recipe: Recipe, part: ComposedPart, staged: Path | None, *, stored: bool
    ) -> None:
        """Record a part of a composition once its bytes are durable; they are `staged`, or the store has them."""
        if staged is not None:
            self.store.send_ahead(staged, part.sha256, self.beating(claim))
        with self.database.write() as session:
            model = self.model(session, claim)
            parts.add(session, self.store, claim, model, recipe.digest, part, staged, stored=stored)

    def rebuild(self, claim: jobs.Claim) -> None:
        """Compose a recipe that another worker has composed, and record the result as a build.

        Raises:
            Postponed: This worker has composed parts of it, so somebody else is to build it again.
        """
        with self.database.read() as session:
            model, recipe = self.model(session, claim), compositions.load(session, claim.payload["recipe"])
            compositions.require_ingredients(session, model, recipe)
            base = {file.path: file.sha256 for file in models.base_files(session, model)}
            built = builds.builds_of(session, model.id, recipe.digest)
        shares = frozenset[str]().union(*map(builds.shares, built))
        if self.name in shares:
            raise Postponed(f"{jobs.OTHER_BUILDER}this worker has composed parts of it.")
        result = self.compose_into(None, claim, base, recipe, again=True, excluded=shares)
        with self.database.write() as session:
            jobs.hold(session, claim)
            model = self.model(session, claim)
            result_of = result["weights_digest"], result["device"], result.get("nodes"), result["files"]
            builds.add_rebuild(session, model, recipe.digest, self.name, *result_of)
            jobs.end(session, claim, "done")

    def require_room(self, folder: Path | None, sizes: Iterable[int]) -> None:
        """Refuse to write files of these sizes where the disk has no room for them; with no folder, none are."""
        if folder is not None:
            self.store.require_room(sum(sizes), "the composition")


def summary(
    tensors: Tensors, chosen: Sequence[JobPart | ComposedPart], indexes: dict[str, str], worker: str
) -> dict[str, Any]:
    """Return the result of a composition of which all parts are recorded, as the task returns that of a whole one.

    Args:
        tensors: (name, dtype, shape, sha256) of the tensors of the base.
        chosen: A result of each part.
        indexes: The sha256 of each index of the base by its path.
        worker: The worker that has the job now.
    """
    negative = {tensor: count for part in chosen for tensor, count in part.negative.items()}
    nodes = {part.builder for part in chosen}
    return {
        "weights_digest": parts.digest_of(tensors, chosen),
        "device": chosen[-1].device,
        "seconds": sum(part.seconds for part in chosen),
        "warnings": tell_negative(negative),
        "files": {part.path: part.sha256 for part in chosen} | indexes,
        "sizes": {part.path: part.size for part in chosen},
        "nodes": None if nodes == {worker} else sorted(nodes),
    }
