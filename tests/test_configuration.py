"""Settings by file and environment: what holds, from where, and what is refused. The command itself, run here."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from registry.cli import app
from registry.cli.configuration import load, shown
from registry.errors import InvalidRequest
from tests.support import launcher


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("REGISTRY_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REGISTRY_CONFIG", "")


def written(folder: Path, text: str) -> Path:
    file = folder / "registry.toml"
    file.write_text(text, "utf-8")
    file.chmod(0o600)
    return file


def printed(*arguments: str) -> dict[str, Any]:
    """Return what `crumb-server config` prints as JSON, by the name of each setting."""
    done = CliRunner().invoke(app, ["config", "--json", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return {row["name"]: (row["value"], row["source"]) for row in json.loads(done.stdout)["settings"]}


def test_an_option_goes_before_the_environment_that_before_the_file_and_that_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(
        tmp_path,
        'data = "/a"\nquota_bytes = "500GiB"\npart_bytes = 4096\nwebhook_private = true\n'
        'proxies = ["10.0.0.0/8", "::1"]\ndatabase_url = "sqlite:////file.db"\n',
    )
    monkeypatch.setenv("REGISTRY_PART_BYTES", "1MiB")
    monkeypatch.setenv("DATABASE_URL", "sqlite:////environment.db")
    there = printed("--config", str(file), "--data", str(tmp_path))
    assert there["data"] == (str(tmp_path), "--data")
    assert there["part_bytes"] == (2**20, "REGISTRY_PART_BYTES")
    assert there["database_url"] == ("sqlite:////environment.db", "DATABASE_URL")
    assert there["quota_bytes"] == (500 * 2**30, str(file))
    assert there["proxies"] == ("10.0.0.0/8,::1", str(file))
    assert there["webhook_private"] == (True, str(file))
    assert there["upload_hours"] == (24.0, "default")
    monkeypatch.setenv("REGISTRY_CONFIG", str(file))
    assert set(printed("--changed")) == {
        *("data", "quota_bytes", "part_bytes", "webhook_private", "proxies", "database_url")
    }


def test_no_secret_and_no_password_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(
        tmp_path,
        'bucket_secret = "SESAME"\nhub_token = "SESAME"\nlimits_storage = "redis://:SESAME@cache:6379/0"\n'
        'database_url = "postgresql://me:SES@ME@db/registry?sslpassword=SESAME&host=x"\n',
    )
    monkeypatch.setenv("REGISTRY_METRICS_TOKEN", "SESAME-SESAME-SESAME")
    for how in ([], ["--json"]):
        done = CliRunner().invoke(app, ["config", "--config", str(file), *how])
        assert done.exit_code == 0
        assert "SES" not in done.stdout
        assert "cache:6379" in done.stdout
    rows = {row["name"]: row["value"] for row in shown(load(file=file))}
    assert rows["database_url"] == "postgresql://me:********@db/registry?sslpassword=********&host=x"
    assert rows["bucket_session_token"] is None
    monkeypatch.setenv("REGISTRY_METRICS_TOKEN", "SESAME")  # too short
    with pytest.raises(InvalidRequest, match=r"^REGISTRY_METRICS_TOKEN cannot be \*{8}: "):
        load(file=file)


def test_what_is_printed_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    file = written(tmp_path, 'quota_bytes = "3MiB"\noidc_name = "Ünser \\"Haus\\""\nscrub_days = 1.5\n')
    again = tmp_path / "again.toml"
    again.write_text(CliRunner().invoke(app, ["config", "--config", str(file)]).stdout, "utf-8")
    assert load(file=again).settings == load(file=file).settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quota_byte = 1", "quota_byte in FILE is not a setting; did you mean quota_bytes?"),
        ("REGISTRY_QUOTA_BYTES = 1", "REGISTRY_QUOTA_BYTES in FILE is not a setting; did you mean quota_bytes?"),
        ("zzz = 1", "zzz in FILE is not a setting; `crumb-server config` lists them."),
        ("[bucket]\nkey_id = 'x'", "bucket in FILE cannot be a table: a setting is one line, `bucket = …`."),
        ("[server]\nport = 1", "FILE has a table [server]; settings are lines of their own, without tables."),
        ("quota_bytes = 'much'", "quota_bytes in FILE cannot be 'much': "),
        ("proxies = 'here'", "proxies in FILE cannot be 'here': 'here' does not appear to be an IPv4 or IPv6 network."),
        ("smtp_security = 'none'\nsmtp_user = 'me'", "smtp_user in FILE cannot be 'me': "),
        ("quota_bytes", "The configuration FILE is not TOML: "),
    ],
)
def test_a_file_with_a_mistake_is_refused_and_the_mistake_named(tmp_path: Path, text: str, words: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InvalidRequest) as refused:
        load(file=file)
    assert str(refused.value).startswith(words.replace("FILE", str(file)))


def test_a_file_that_is_not_there_is_refused_and_one_that_everybody_reads_is_told_of(tmp_path: Path) -> None:
    """In a process of its own: exit codes, and what is said besides."""
    environment = {**os.environ, "REGISTRY_QUOTA_BYTE": "1", "REGISTRY_PORT": "tcp://10.0.0.1"}
    gone = launcher.run(launcher.SERVER, "config", "--config", str(tmp_path / "gone"), environment=environment)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith(f"crumb-server: The configuration {tmp_path / 'gone'} cannot be read: ")
    file = written(tmp_path, "bucket_secret = 'x'")
    file.chmod(0o644)
    environment["REGISTRY_CONFIG"] = str(file)
    told = launcher.run(launcher.SERVER, "migrate", "--data", str(tmp_path / "data"), environment=environment)
    assert told.returncode == 0, told.stderr
    assert told.stderr.splitlines() == [
        f"crumb-server: {file} holds secrets, and everybody can read it; run `chmod o-r {file}`.",
        "crumb-server: REGISTRY_QUOTA_BYTE is not a setting, and changes nothing; did you mean REGISTRY_QUOTA_BYTES?",
    ]
