import subprocess
import sys
from pathlib import Path

import pytest

from registry.files.descriptors import open_to_read

SCRIPT = """
import resource, sys
from pathlib import Path
from registry.files.descriptors import open_to_read
soft, hard, count = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
files = [open_to_read(Path(sys.executable)) for _ in range(count)]
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


FULL = """
import resource, sys
from pathlib import Path
from registry.errors import TooManyFiles
from registry.files.descriptors import open_to_read
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
files = []
try:
    while True:
        files.append(open_to_read(Path(sys.executable)))
except TooManyFiles:
    open(sys.executable, "rb").read(1)
    print("too many, and another one opens")
"""


def limit_after(soft: int, hard: int, count: int) -> tuple[int, str]:
    """Open so many files under a soft and a hard limit; return the soft limit at the end, and what was written."""
    ask = [sys.executable, "-c", SCRIPT, str(soft), str(hard), str(count)]
    done = subprocess.run(ask, capture_output=True, text=True)
    return int(done.stdout or 0), done.stderr


def test_the_limit_of_the_process_grows_as_far_as_files_need_it() -> None:
    assert limit_after(128, 4096, 50) == (128, "")
    assert limit_after(128, 4096, 300) == (512, "")


def test_where_it_cannot_grow_a_sentence_names_it_and_some_descriptors_are_left() -> None:
    limit, errors = limit_after(128, 128, 300)
    assert limit == 0
    assert "TooManyFiles: This needs more files open at once than the 128 that a process may open here." in errors
    assert "ulimit -n 1024" in errors


def test_other_errors_of_opening_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_to_read(tmp_path / "none")


def test_what_is_left_is_enough_for_what_else_a_program_opens() -> None:
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("too many, and another one opens\n", "")
