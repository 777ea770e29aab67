"""`crumb` as a person meets it: help, errors, exit codes, and what it loads."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import makers
from tests.support.scripted import serving
from tests.support.visitors import Crumb, Files

HEAVY = {"torch", "sqlalchemy", "fastapi", "transformers", "sklearn"}
COMMANDS = {
    "diff": ["--output", "--drop-bottom", "--drop-top", "--granularity", "--value-dtype", "--include", "--exclude"],
    "show": [],
    "apply": ["--output", "--alpha", "--device"],
    "digest": [],
    "login": ["--token", "--browser"],
    "logout": [],
    "whoami": [],
    "model create": ["--base", "--card", "--copy", "--no-wait"],
    "model list": ["--search", "--author", "--limit"],
    "model show": [],
    "model set": ["--private", "--public", "--license", "--approvals", "--require", "--require-none"],
    "push": [
        "-m",
        "--task",
        "--message-file",
        "--license",
        "--propose",
        "--update",
        "--keep",
        "--drop-bottom",
        "--no-wait",
    ],
    "log": ["--task", "--author", "--state", "--density-min", "--density-max", "--tensor", "--limit"],
    "compose": ["--alpha", "--allow-yanked", "--dry-run"],
    "conflicts": ["--measure", "--tensors"],
    "pull": ["--output", "--as-patches", "--as-files", "--base"],
    "delta": ["--output"],
    "apply-delta": ["--output"],
    "follow": ["--output", "--once"],
    "verify": ["--recompose", "--base", "--key"],
    "publish": ["--tag", "--no-tag", "--base-model", "--private", "--public", "--keep"],
    "propose": [],
    "withdraw": ["-m"],
    "review": ["--approve", "--request-changes", "--revision", "-m", "--about"],
    "comment": ["-m", "--about", "--edit", "--history", "--delete"],
    "accept": ["--supersedes", "-m"],
    "reject": ["-m"],
    "yank": ["-m"],
    "unyank": ["-m"],
    "quarantine": ["-m", "--end"],
    "inbox": [],
    "report": ["--reason", "-m"],
    "release cut": ["--from", "--add", "--without", "--alpha", "--allow-yanked", "--no-wait"],
    "release edit": ["--changelog", "--card"],
    "release publish": ["--recompose", "--sign"],
    "release sign": ["--key"],
    "release yank": ["-m"],
    "release pin": ["--end"],
    "release show": [],
    "release list": ["--limit"],
    "release diff": [],
    "channel list": [],
    "channel move": ["-m"],
    "channel rollback": ["-m"],
    "channel history": [],
    "channel protect": ["--role", "--approvals", "--allow-yanked", "--no-yanked"],
    "recipe export": ["--format", "-o", "--models"],
    "recipe delete": [],
    "recipe import": ["-o", "--base"],
    "bisect": ["--good", "--bad", "--no-verify-ends", "--keep", "--device"],
    "loo": ["--keep", "--device"],
    "blame": [],
    "eval add": ["--task", "--dataset", "--metric", "--value", "--lower-is-better", "--source"],
    "eval run": ["--task", "--dataset"],
    "eval list": [],
    "org create": [],
    "org show": [],
    "member add": ["--role"],
    "member remove": [],
    "member list": [],
    "token create": ["--scope", "--label", "--expires", "--model"],
    "token list": [],
    "token revoke": [],
    "news": ["--seen"],
    "mail show": [],
    "mail set": ["--at-once", "--off"],
    "mail confirm": [],
    "mail forget": [],
    "watch": ["--end"],
    "publisher add": ["--github", "--gitlab", "--workflow", "--environment", "--ref", "--issuer", "--claim"],
    "publisher list": [],
    "publisher remove": [],
    "session list": [],
    "session end": [],
    "join": ["--name", "--display-name"],
    "profile": ["--display-name"],
    "key make": [],
    "key trust": [],
    "webhook create": ["--event"],
    "webhook list": [],
    "webhook on": [],
    "webhook off": [],
    "webhook delete": [],
    "webhook test": [],
    "webhook deliveries": ["--limit"],
    "webhook replay": [],
    "integrate hf": ["--remove"],
    "admin summary": [],
    "admin reports": ["--closed", "--limit"],
    "admin close": ["-m"],
    "admin workers": [],
    "admin jobs": ["--state", "--kind", "--limit"],
    "admin quarantine": ["--limit"],
    "admin namespaces": ["--search", "--limit"],
    "admin quota": ["--bytes", "--uploads"],
    "admin policy": ["--registration", "--license", "--drop-bottom", "--drop-top", "--hub"],
    "admin settings": [],
    "admin user create": ["--display-name", "--expires"],
    "admin user invite": ["--org", "--role", "--label", "--expires"],
    "admin user invitations": ["--org", "--limit"],
    "admin user requests": ["--limit"],
    "admin user approve": [],
    "admin user revoke": ["--org"],
    "admin user list": ["--search", "--limit"],
    "admin user disable": [],
    "admin user enable": [],
    "audit": ["--action", "--user", "--limit"],
    "changes": ["--since", "--limit"],
    "demo": ["--keep"],
}


def loaded_by(code: str, *, home: Path) -> set[str]:
    """Return which heavy packages a piece of Python loads, in a process of its own."""
    script = f"import sys\n{code}\nprint('LOADED', *{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    return HEAVY & set(done.stdout.rpartition("LOADED")[2].split())


def test_importing_the_client_loads_nothing_heavy(home: Path) -> None:
    assert loaded_by("import client", home=home) == set()
    assert loaded_by("from client import Client", home=home) == set()


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["push", "--help"], ["log", "n/m"], ["model", "list"], ["whoami"], ["pull", "n/m", "-o", "x"],
     ["push", "PATCH", "n/m", "-m", "t"], ["login", "http://127.0.0.1:9", "--token", "hf_x"], ["model", "show", "n/m"],
     ["compose", "n/m", "1"], ["conflicts", "n/m", "1", "2"], ["show", "n/m#1"]],
)  # fmt: skip
def test_commands_that_need_no_torch_load_none(arguments: list[str], home: Path, files: Files) -> None:
    arguments = [str(files.patches[0]) if argument == "PATCH" else argument for argument in arguments]
    code = f"import os\nos.environ['CRUMB_URL'] = 'http://127.0.0.1:9'\nfrom client.cli import run\nrun({arguments!r})"
    assert loaded_by(code, home=home) == set()


def test_help_names_every_command_and_exit_code_and_fits_80_columns(crumb: Crumb) -> None:
    text = crumb("--help", COLUMNS="80")
    assert {command.split()[0] for command in COMMANDS} <= set(re.findall(r"^  ([a-z-]+) ", text, re.M))
    for code in ("0 done", "1 refused", "2 wrong usage", "3 bytes", "130 interrupted", "143 terminated"):
        assert code in " ".join(text.split())
    assert "..." not in text.partition("\n")[2]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_options_and_the_common_ones(command: str, crumb: Crumb) -> None:
    text = crumb(*command.split(), "--help", COLUMNS="80")
    for option in [*COMMANDS[command], "--json", "-q, --quiet"]:
        assert option in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_version_is_that_of_the_package(crumb: Crumb) -> None:
    from importlib.metadata import version

    assert crumb("--version") == f"crumb {version('breadcrumb-registry')}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["push", "x"], "Missing argument"),
        (["push", "x", "n/m"], "Missing option"),
        (["frobnicate"], "No such command"),
        (["log", "n/m", "--limit", "0"], "--limit"),
        (["verify", ".", "n/m"], "name the snapshot"),
        (["pull", "n/m", "-o", "x", "--base", "y", "--as-files"], "--as-files"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments: list[str], words: str, crumb: Crumb) -> None:
    assert crumb(*arguments, code=2) == ""
    assert words in crumb.errors
    assert crumb.errors.startswith("crumb: ")
    assert crumb.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["log", "n/m"], "crumb login"),
        (["digest", "./none"], "./none"),
        (["show", "none.safetensors"], "none.safetensors"),
        (["diff", ".", ".", "-o", "../c", "--drop-top", "x"], "drop_top"),
        (["diff", ".", ".", "-o", ".."], "is a folder"),
        (["diff", ".", ".", "-o", "sub/c"], "inside the model"),
        (["apply", ".", "p", "-o", "x"], "no file p"),
        (["compose", "n/m", "one"], "'one' is not a patch"),
        (["pull", "n/m@Main", "-o", "x"], "is not a reference"),
        (["verify", "a/b", "n/m@base"], "no folder a/b"),
        (["login", "example.org", "--token", "t"], "address"),
        (["login", "http://127.0.0.1:9"], "No token"),
    ],
)
def test_a_refusal_is_one_sentence_and_exit_code_1(arguments: list[str], words: str, crumb: Crumb) -> None:
    assert crumb(*arguments, code=1) == ""
    assert words in crumb.errors
    assert crumb.errors.startswith("crumb: ")
    assert crumb.errors.count("\n") == 1


def test_nobody_there_names_the_address(crumb: Crumb) -> None:
    crumb("whoami", code=1, CRUMB_URL="http://127.0.0.1:9")
    assert "No registry answers at http://127.0.0.1:9" in crumb.errors


def test_the_command_itself_exits_with_the_code(home: Path) -> None:
    command = [sys.executable, "-c", "from client.cli import main; main()"]
    done = subprocess.run([*command, "whoami"], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("crumb: No registry is known")
    assert subprocess.run([*command, "--version"], capture_output=True, env=os.environ).returncode == 0


def test_the_unexpected_is_one_sentence_too_and_a_traceback_on_request(home: Path) -> None:
    code = (
        "import client.machine.config\n"
        "def burst(*_):\n"
        "    raise ZeroDivisionError('oops')\n"
        "client.machine.config.current = burst\n"
        "from client.cli import main\n"
        "main()"
    )
    for debug, expected in (("", "crumb: crumb failed unexpectedly"), ("1", "Traceback")):
        command = [sys.executable, "-c", code, "whoami"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CRUMB_DEBUG": debug})
        assert done.returncode == 1
        assert done.stderr.startswith(expected)
        assert "oops" in done.stderr


def test_a_patch_goes_from_diff_over_show_to_apply_without_a_registry(crumb: Crumb, files: Files) -> None:
    made = json.loads(crumb("diff", files.base, files.tuned[0], "-o", "one.safetensors", "--json"))
    assert (crumb.cwd / "one.safetensors").read_bytes() == files.patches[0].read_bytes()
    shown = json.loads(crumb("show", "one.safetensors", "--json"))
    assert shown["sha256"] == made["sha256"]
    assert shown["nnz"] == made["nnz"] == sum(tensor["nnz"] for tensor in shown["tensors"])
    assert "embed.weight" in crumb("show", "one.safetensors")
    assert crumb("show", "one.safetensors", "-q") == made["sha256"] + "\n"

    applied = json.loads(crumb("apply", files.base, "one.safetensors:0.5", files.patches[1], "-o", "out", "--json"))
    assert crumb("digest", "out").strip() == applied["weights_digest"]
    out = crumb.cwd / "out"
    expected = {path.relative_to(files.base) for path in files.base.rglob("*")}
    assert {path.relative_to(out) for path in out.rglob("*")} == expected
    assert applied["recipe"] in (out / "README.md").read_text()
    assert (out / "config.json").read_bytes() == (files.base / "config.json").read_bytes()
    assert crumb("digest", files.base, "-q").strip() == applied["base"]
    assert makers.read_weights(out).keys() == makers.read_weights(files.base).keys()


def test_apply_replaces_nothing_and_leaves_nothing_behind(crumb: Crumb, files: Files) -> None:
    (crumb.cwd / "out").mkdir()
    (crumb.cwd / "out" / "mine").touch()
    crumb("apply", files.base, files.patches[0], "-o", "out", code=1)
    assert "not empty" in crumb.errors
    crumb("apply", files.tuned[0], files.patches[0], "-o", "other", code=1)  # not the base
    assert "base" in crumb.errors
    crumb("apply", files.base, files.patches[0], files.patches[0], "-o", "other", code=1)
    assert "twice" in crumb.errors
    assert sorted(path.name for path in crumb.cwd.iterdir() if path.name != "home") == ["out"]


def test_diff_does_not_write_over_the_weights_it_reads(crumb: Crumb, files: Files) -> None:
    weights = sorted(files.base.glob("*.safetensors"))[0]
    before = weights.read_bytes()
    crumb("diff", files.base, files.tuned[0], "-o", weights, code=1)
    assert weights.read_bytes() == before


def test_diff_takes_its_options(crumb: Crumb, files: Files) -> None:
    options = ["--drop-bottom", "0.5", "--drop-top", "0", "--granularity", "Row", "--value-dtype", "bf16"]
    crumb("diff", files.base, files.tuned[0], "-o", "x", *options, "--include", "layers.*", "--exclude", "*.bias", "-q")
    shown = json.loads(crumb("show", "x", "--json"))
    found = (shown["drop_bottom"], shown["drop_top"], shown["granularity"], shown["value_dtype"])
    assert found == ("0.5", "0", "row", "BF16")
    names = {tensor["name"] for tensor in shown["tensors"]}
    assert names
    assert all(name.startswith("layers.") and not name.endswith(".bias") for name in names)


def test_debugging_shows_calls_and_no_secrets(home: Path) -> None:
    me = {"user": "ana", "admin": False, "scopes": ["push"], "token": "hf_abc", "expires_at": None}
    command = [sys.executable, "-c", "from client.cli import main; main()", "whoami"]
    with serving(lambda request: request.answer(200, me)) as there:
        ambient = {"CRUMB_URL": there.url, "CRUMB_TOKEN": "hf_secret"}
        for debug in ("", "1"):
            env = {**os.environ, **ambient, "CRUMB_DEBUG": debug}
            done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
            assert ("client.api.http: GET /api/v1/whoami: 200 in " in done.stderr) is bool(debug)
            assert "hf_secret" not in done.stderr + done.stdout
            assert done.stdout.startswith("user")
