"""Reading a model that is composed while it is sent, from a server, against the same model stored there.

Two registries have the same model and patches, and have composed one recipe. One holds its files; the other has room
for none (`REGISTRY_COMPOSED_BYTES=0`) and composes what is read. They are read in turn, by one connection.

    to nowhere     a reader that takes what comes, and does nothing with it
    hf_hub         `hf_hub_download` of huggingface_hub, into memory
    a range        1 MB at a random place
    first byte     of the whole file, and of a range that begins in the middle of the largest tensor
"""

import argparse
import contextlib
import http.client
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import HfApi

from benchmarks.machine import MEMORY_DISK, filesystem_of
from benchmarks.measure import Sample, Series, alternate
from benchmarks.results import Bar, Result, Table, documents, megabytes, seconds, times
from benchmarks.science.cases import Case, PatchFile, add_case, case_of, workplace
from benchmarks.science.ranges import RANGE, Span, middle_of_largest, random_spans
from benchmarks.server.latency import NAME, fill, serving
from client.actions.jobs import wait
from client.api.client import Client
from registry.files.threads import processors

HELD, COMPOSED = "stored", "composed"
SETTINGS: Mapping[str, Mapping[str, str]] = {HELD: {}, COMPOSED: {"REGISTRY_COMPOSED_BYTES": "0"}}
NOWHERE, HUB, PART, FIRST, MIDDLE = "to nowhere", "hf_hub", "a range", "first byte", "first byte, in the middle"
BLOCK = 2**20
"""Bytes that are taken at a time."""
SHARE = 0.5  # of the throughput of a stored file
SOON = 1.0  # seconds


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, rounds=7)


@dataclass(frozen=True)
class Place:
    """Where the files of a composition are read."""

    url: str
    revision: str

    def read(self, span: Span, *, ranged: bool, first: bool = False) -> Sample:
        """Measure one request, until its first byte or until all bytes are there."""
        name, start, stop = span
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port)
        headers = {"Range": f"bytes={start}-{stop - 1}"} if ranged else {}
        buffer, left = memoryview(bytearray(BLOCK)), stop - start
        with contextlib.closing(connection):
            began = time.perf_counter()
            connection.request("GET", f"/{NAME}/resolve/{self.revision}/{name}", headers=headers)
            answer = connection.getresponse()
            assert answer.status == (206 if ranged else 200), f"{name}: {answer.status}"
            while left and (count := answer.readinto(buffer[: 1 if first else BLOCK])):
                left -= count
                if first:
                    break
            took = time.perf_counter() - began
        assert first or not left, f"{left} bytes of {name} did not come"
        return Sample(took)

    def download(self, name: str) -> Sample:
        """Measure a download by huggingface_hub."""
        with tempfile.TemporaryDirectory(dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None) as folder:
            began = time.perf_counter()
            HfApi(endpoint=self.url, token=False).hf_hub_download(
                NAME, name, revision=self.revision, local_dir=Path(folder)
            )
            return Sample(time.perf_counter() - began)


def run(args: argparse.Namespace) -> Result:
    """Measure reads."""
    case = case_of(args)
    with workplace(args, 4 * case.weight_bytes) as files, tempfile.TemporaryDirectory(dir=files.work) as folder:
        base, patches = files.base(case), files.patches(case)
        with contextlib.ExitStack() as stack:
            places = {
                name: stack.enter_context(composed(Path(folder) / name, settings, base, patches, case))
                for name, settings in SETTINGS.items()
            }
            sizes = {path.name: path.stat().st_size for path in base.glob("*.safetensors")}
            name = max(sizes, key=lambda name: sizes[name])
            whole: Span = (name, 0, sizes[name])
            spans = iter(random_spans(sizes, 2 * args.rounds, case.seed))
            file, middle, _ = middle_of_largest(base)
            inside: Span = (file, middle, sizes[file])
            for place in places.values():  # the first read starts processes, and a stored file goes into page cache
                place.read(whole, ranged=False)
            found = alternate(
                {
                    f"{kind}, {what}": partial(read, place, whole)
                    for kind, place in places.items()
                    for what, read in {
                        NOWHERE: lambda place, span: place.read(span, ranged=False),
                        HUB: lambda place, span: place.download(span[0]),
                        PART: lambda place, _: place.read(next(spans), ranged=True),
                        FIRST: lambda place, span: place.read(span, ranged=False, first=True),
                        MIDDLE: lambda place, _: place.read(inside, ranged=True, first=True),
                    }.items()
                },
                args.rounds,
            )
        parameters = {**case.document(), "rounds": args.rounds, "data on": filesystem_of(base)}
        told = (
            f"A file of {megabytes(sizes[name])}, {case.patches} patches of {megabytes(sum(p.size for p in patches))}"
        )
    return Result("serving", parameters, report(found, told, sizes[name]), bars(found, case), documents(found))


@contextlib.contextmanager
def composed(
    folder: Path, settings: Mapping[str, str], base: Path, patches: Sequence[PatchFile], case: Case
) -> Iterator[Place]:
    """Run a registry that has composed the patches."""
    with serving(folder, [], settings) as client:
        fill(client, base, patches)
        yield Place(client.url, compose(client, case))
    shutil.rmtree(folder)


def compose(client: Client, case: Case) -> str:
    """Have the patches composed; return the digest of the recipe."""
    made = client.compose(NAME, [(number, "1") for number in range(1, case.patches + 1)], alpha=case.alpha)
    if made.job is not None:
        wait(client, made.job)
    return made.recipe.digest


def report(found: Mapping[str, Series], told: str, size: int) -> list[Table]:
    """Return what was found as tables, for files of `size` bytes."""
    speeds = [
        [
            f"{kind}, {what}",
            seconds(series.median),
            series.spread,
            f"{amount / series.median / 1e6:,.0f}",
            times(series.median / found[f"{HELD}, {what}"].median),
        ]
        for what, amount in {NOWHERE: size, HUB: size, PART: RANGE}.items()
        for kind in SETTINGS
        if (series := found[f"{kind}, {what}"])
    ]
    waits = [
        [f"{kind}, {what}", f"{1000 * series.median:.1f} ms", f"{1000 * series.least:.1f}..{1000 * series.most:.1f} ms"]
        for what in (FIRST, MIDDLE)
        for kind in SETTINGS
        if (series := found[f"{kind}, {what}"])
    ]
    return [
        Table(told, ["", "median", "min..max", "MB/s", "time to stored"], speeds),
        Table("Until the first byte", ["", "median", "min..max"], waits),
    ]


def bars(found: Mapping[str, Series], case: Case) -> list[Bar]:
    """Return what is asked of the numbers."""
    judged = case == Case() and processors() == 2
    ratios = {what: found[f"{HELD}, {what}"].median / found[f"{COMPOSED}, {what}"].median for what in (NOWHERE, HUB)}
    return [
        *(
            Bar(f"throughput, composed / stored, {what}", ratio, SHARE, least=True, judged=judged)
            for what, ratio in ratios.items()
        ),
        *(
            Bar(f"{what}, composed, s", found[f"{COMPOSED}, {what}"].median, SOON, judged=judged)
            for what in (FIRST, MIDDLE)
        ),
    ]
