"""`crumb doctor`: one line for each thing, and a remedy where something is amiss."""

from pathlib import Path

import pytest

from client.overview import doctor
from tests.support.scripted import serving
from tests.support.visitors import Crumb, Registry


def found(crumb: Crumb, **more: str) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in crumb.json("doctor", **more)}


def test_where_all_is_well_every_line_says_ok(here: Registry, crumb: Crumb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_ROOM", 0)
    findings = found(crumb)
    assert {finding["state"] for finding in findings.values()} == {"ok"}
    assert here.url in findings["registry"]["text"] and "version 0." in findings["registry"]["text"]
    assert findings["clock"]["text"] == "agrees with the registry's"
    assert findings["login"]["text"].startswith("ana, scopes ")
    text = crumb("doctor")
    assert "ok    crumb: " in text and here.token("ana") not in text
    assert crumb("doctor", "-q") == ""


def test_what_is_amiss_comes_with_a_remedy(
    here: Registry, crumb: Crumb, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(crumb, CRUMB_TOKEN="")["login"]["remedy"].endswith(f"crumb login {here.url}")
    assert "crumb login" in found(crumb, CRUMB_TOKEN="hf_" + "x" * 34)["login"]["remedy"]
    assert found(crumb, CRUMB_URL="http://127.0.0.1:9")["registry"]["state"] == "warn"
    assert "crumb login URL" in found(crumb, CRUMB_URL="")["registry"]["remedy"]
    (home / "cache" / "bases").mkdir(parents=True)
    (home / "cache" / "bases" / "x").write_bytes(bytes(12_345))
    cache = found(crumb)["cache"]
    assert "12.3 kB" in cache["text"] and str(home / "cache") in cache["remedy"]
    monkeypatch.setattr(doctor, "LEAST_ROOM", 10**18)
    assert found(crumb)["disk (here)"]["state"] == "warn"
    monkeypatch.setattr(doctor, "missing_extras", lambda: {"local", "sign", "gpu"})
    missing = found(crumb)
    assert "breadcrumb-registry[local]" in missing["local"]["remedy"]
    assert (missing["local"]["state"], missing["sign"]["state"]) == ("warn", "ok")
    monkeypatch.setattr(doctor, "version", lambda: "9.1.0")
    assert "Upgrade the registry" in found(crumb)["registry"]["remedy"]


@pytest.mark.parametrize(
    ("headers", "state"),
    [({"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}, "warn"), ({"Date": "soon"}, "ok"), ({}, "ok")],
)
def test_a_clock_that_is_wrong_is_told(crumb: Crumb, headers: dict[str, str], state: str) -> None:
    assert doctor._clock(headers.get("Date")).state == state


def test_what_is_no_registry_is_said_to_be_none(crumb: Crumb) -> None:
    with serving(lambda request: request.answer(200, b"<html>")) as scripted:
        finding = found(crumb, CRUMB_URL=scripted.url)["registry"]
    assert finding["state"] == "warn" and "not a registry" in finding["text"]
