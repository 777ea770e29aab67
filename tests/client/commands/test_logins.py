import stat
from pathlib import Path

import pytest

from client.machine.config import Login, cache, current, forget, save
from registry import errors


def test_a_login_is_kept_for_its_owner_only(home: Path) -> None:
    save(Login("https://a", "hf_secret", "ana"))
    assert stat.S_IMODE((home / "logins.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert current() == Login("https://a", "hf_secret", "ana")
    assert cache() == home / "cache"


def test_a_token_is_not_in_what_a_login_shows() -> None:
    assert "hf_secret" not in repr(Login("https://a", "hf_secret", "ana"))


def test_the_environment_wins_over_what_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    save(Login("https://a", "hf_a", "ana"))
    save(Login("https://b", "hf_b", "bob"))
    monkeypatch.setenv("CRUMB_URL", "https://a/")
    assert current().token == "hf_a"
    monkeypatch.setenv("CRUMB_URL", " HTTPS://A// ")
    assert current().token == "hf_a"
    monkeypatch.setenv("CRUMB_URL", "a")
    with pytest.raises(errors.InvalidRequest, match="https://"):
        current()
    monkeypatch.setenv("CRUMB_URL", "https://c")
    assert current() == Login("https://c", None)
    monkeypatch.setenv("CRUMB_TOKEN", "hf_c")
    assert current() == Login("https://c", "hf_c")


def test_a_logout_forgets_the_token(home: Path) -> None:
    save(Login("https://a", "hf_a", "ana"))
    assert forget() == "https://a"
    assert forget() is None
    assert "hf_a" not in (home / "logins.json").read_text()
    with pytest.raises(errors.Unauthenticated, match="crumb login"):
        current()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"logins": 1}'])
def test_a_damaged_file_is_told(home: Path, text: str) -> None:
    home.mkdir()
    (home / "logins.json").write_text(text)
    with pytest.raises(errors.InvalidRequest, match=r"logins\.json"):
        current()
