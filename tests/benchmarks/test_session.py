"""The session on a GPU: its order, what it keeps when it is stopped, and that it goes on from there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu import session
from benchmarks.gpu.session import Step

ROOT = Path(__file__).parents[2]


def step(name, text, seconds=60):
    return Step(name, [sys.executable, "-c", text], seconds)


def test_bits_come_first_and_all_of_it_fits_into_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(session.shutil, "which", lambda name: f"/bin/{name}")
    for small in (True, False):
        steps = session.plan(tmp_path, small=small)
        assert [one.name for one in steps][:2] == ["bits", "kernels"]
        assert [one.name for one in steps][-3:] == ["memcheck", "racecheck", "synccheck"]
        assert len({one.name for one in steps}) == len(steps)
    assert all((ROOT / test).exists() for test in session.TESTS)


def test_each_ends_by_itself_and_what_ended_well_is_not_run_again(tmp_path, monkeypatch):
    steps = [
        step("good", "print('fine')"),
        step("bad", "raise SystemExit(3)"),
        step("long", "import time; time.sleep(600)", seconds=1),
        step("last", "print('fine')"),
    ]
    monkeypatch.setattr(session, "plan", lambda out, small: steps)
    assert session.main(["--out", str(tmp_path)]) == 1
    found = {name: one.how for name, one in session.read_ended(tmp_path).items()}
    assert found == {"good": "done", "bad": "failed", "long": "out of time", "last": "done"}
    assert (tmp_path / "good.log").read_text().endswith("fine\n")
    (tmp_path / "good.log").unlink()
    steps[1], steps[2] = step("bad", "pass"), step("long", "pass")
    assert session.main(["--out", str(tmp_path)]) == 0
    assert not (tmp_path / "good.log").exists()


def test_without_time_left_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "plan", lambda out, small: [step("one", "pass")])
    assert session.run(tmp_path, 0) == {}


def test_what_was_measured_before_a_stop_is_kept(tmp_path):
    begun = tmp_path / "begun"
    text = f"""
import sys
from benchmarks.gpu import session
steps = [
    session.Step("first", [sys.executable, "-c", "pass"], 60),
    session.Step("second", [sys.executable, "-c", "import os, time; "
        "open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(600)"], 600),
]
session.plan = lambda out, small: steps
sys.exit(session.main(["--out", {str(tmp_path / "out")!r}]))
"""
    process = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT)
    while not (begun.exists() and begun.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    kept = json.loads((tmp_path / "out/session.json").read_text())["steps"]
    assert {name: one["how"] for name, one in kept.items()} == {"first": "done", "second": "stopped"}
    try:
        os.kill(int(begun.read_text()), 0)
    except ProcessLookupError:
        return
    raise AssertionError("what was begun runs on")
