"""Kernels that are compiled once, and then loaded without the compiler."""

import re
import subprocess
import sys

import numpy as np
import pytest

from registry.breadcrumbs.kernels import machine_code
from registry.breadcrumbs.kernels.cpu import compiling
from registry.breadcrumbs.kernels.cpu import select as sources
from registry.breadcrumbs.kernels.machine_code import Kernel

COUNTS = np.array([3, 0, 5], np.int64)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Two folders for machine code, which are not there yet."""
    folders = [tmp_path / "sources", tmp_path / "user"]
    monkeypatch.setattr(machine_code, "_folders", lambda: folders)
    return folders


@pytest.fixture
def compiled(monkeypatch):
    """The names of the kernels that are compiled."""
    names, compile_kernel = [], compiling.compile_kernel

    def note(module, name):
        names.append(name)
        return compile_kernel(module, name)

    monkeypatch.setattr(compiling, "compile_kernel", note)
    return names


def test_what_was_compiled_is_loaded(places, compiled):
    for _ in range(2):
        kernel = Kernel("select", "nth_bin")
        assert not kernel.loaded
        assert kernel(COUNTS, 6) == (0, 1)
        assert kernel.loaded
    assert compiled == ["nth_bin"]
    assert [path.name for path in places[0].iterdir()] == ["select.nth_bin"]
    assert not places[1].exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
        lambda raw: b"",
        lambda raw: raw.replace(b"nth", b"mth"),
    ],
)
def test_what_is_damaged_is_compiled_again(places, compiled, damage):
    Kernel("select", "nth_bin")(COUNTS, 1)
    (file,) = places[0].iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert [Kernel("select", "nth_bin")(COUNTS, 5) for _ in range(2)] == [(2, 5)] * 2
    assert compiled == ["nth_bin"] * 2


def test_code_is_kept_where_there_is_a_right_to(places, compiled):
    places[0].write_text("no folder")
    assert [Kernel("select", "nth_bin")(COUNTS, 5) for _ in range(2)] == [(2, 5)] * 2
    assert compiled == ["nth_bin"]
    places[1].rename(places[1].with_name("away"))
    places[1].write_text("no folder either")
    assert Kernel("select", "nth_bin")(COUNTS, 5) == (2, 5)
    assert compiled == ["nth_bin"] * 2


def test_code_is_kept_where_nobody_else_can_put_some(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = machine_code._folders.__wrapped__()[1]
    assert own.parent == tmp_path / "breadcrumb-registry/kernels"
    own.mkdir(parents=True)
    own.chmod(0o770)
    assert own not in machine_code._folders.__wrapped__()
    own.chmod(0o755)
    assert own in machine_code._folders.__wrapped__()
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine_code._folders.__wrapped__()[1].parent == tmp_path / ".cache/breadcrumb-registry/kernels"


@pytest.mark.parametrize(
    "wrong", [COUNTS.astype(np.int32), COUNTS[::2], np.array([COUNTS])], ids=["dtype", "gaps", "dimensions"]
)
def test_arrays_of_other_types_are_refused(wrong):
    with pytest.raises(TypeError, match="nth_bin takes contiguous int64 of 1 dimensions"):
        Kernel("select", "nth_bin")(wrong, 1)


def test_arguments_that_are_left_out_are_told():
    with pytest.raises(ValueError, match="zip"):
        Kernel("select", "nth_bin")(COUNTS)


def test_a_kernel_that_needs_numba_when_it_runs_is_not_compiled(monkeypatch):
    import math

    @compiling.exported("float64(float64, int64)")
    def scaled(value, power):
        return math.ldexp(value, power)

    monkeypatch.setattr(sources, "scaled", scaled, raising=False)
    with pytest.raises(TypeError, match=r"select\.scaled calls \['numba_ldexp'\]"):
        compiling.compile_kernel("select", "scaled")


def test_machine_code_is_known_by_all_that_its_sources_import():
    parts = list(machine_code._identity())
    folder = machine_code.SOURCES
    for source in folder.glob("*.py"):
        for imported in re.findall(
            r"^(?:from|import) registry\.breadcrumbs\.kernels\.([\w.]+)", source.read_text(), re.M
        ):
            assert folder.parent.joinpath(*imported.split(".")).with_suffix(".py").read_bytes() in parts


def test_once_compiled_nothing_needs_numba():
    script = (
        "import sys, numpy as np\n"
        "from registry.breadcrumbs.kernels.select import nth_bin\n"
        "print(nth_bin(np.array([3, 0, 5]), 6), 'numba' in sys.modules)"
    )
    Kernel("select", "nth_bin")(COUNTS, 1)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "(0, 1) False\n", done.stderr
