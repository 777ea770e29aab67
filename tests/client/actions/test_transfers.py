import base64
import hashlib
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from client import Client
from client.actions import downloads, transfers
from client.actions.downloads import Wanted, partial_path
from client.actions.transfers import download_all
from client.api.http import Connection
from registry import errors
from tests.support.scripted import Request, serving

DATA = random.Random(0).randbytes(1_000_003)
SHA = hashlib.sha256(DATA).hexdigest()


def wanted(target: Path, data: bytes = DATA) -> Wanted:
    return Wanted("/file", target, hashlib.sha256(data).hexdigest(), len(data))


def send(request: Request, data: bytes = DATA, cut: int | None = None) -> None:
    """Answer a download as a registry does."""
    if "range" not in request.headers:
        request.answer(200, data, cut)
        return
    assert request.headers["if-range"] == f'"{SHA}"'
    start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
    request.answer(206, data[start:], cut, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")


def fetch(url: str, *files: Wanted, progress: Any = None, attempts: int = 6) -> None:
    connection = Connection(url, attempts=attempts)
    try:
        download_all(connection, files, progress=progress)
    finally:
        connection.close()


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_download_is_verified_counted_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with serving(send) as there:
        fetch(there.url, wanted(tmp_path / "a/b"), progress=lambda done, total: told.append((done, total)))
    assert (tmp_path / "a/b").read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert left(tmp_path) == ["a", "a/b"]


def test_a_download_cut_again_and_again_goes_on_from_where_it_was(tmp_path: Path, no_pauses: list[float]) -> None:
    with serving(lambda request: send(request, cut=None if len(there.seen) > 9 else 100_000)) as there:
        connection = Connection(there.url)
        downloads.download(connection, wanted(tmp_path / "x"))
        connection.close()
    assert (tmp_path / "x").read_bytes() == DATA
    starts = [request.headers.get("range", "bytes=0-") for request in there.seen]
    assert starts == [f"bytes={n}00000-" if n else "bytes=0-" for n in range(10)]


def test_a_partial_file_of_a_killed_run_is_hashed_and_continued(tmp_path: Path) -> None:
    file = wanted(tmp_path / "x")
    partial_path(file).parent.mkdir()
    partial_path(file).write_bytes(DATA[:600_000])
    with serving(send) as there:
        fetch(there.url, file)
    assert there.seen[0].headers["range"] == "bytes=600000-"
    assert len(there.seen) == 1
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_complete_partial_file_needs_no_download(tmp_path: Path) -> None:
    file = wanted(tmp_path / "x")
    partial_path(file).parent.mkdir()
    partial_path(file).write_bytes(DATA)
    with serving(send) as there:
        fetch(there.url, file)
    assert there.seen == []
    assert (tmp_path / "x").read_bytes() == DATA


@pytest.mark.parametrize("damage", ["short", "full", "long"])
def test_a_damaged_partial_file_is_fetched_anew(tmp_path: Path, damage: str) -> None:
    file = wanted(tmp_path / "x")
    partial_path(file).parent.mkdir()
    size = {"short": 5000, "full": len(DATA), "long": len(DATA) + 1}[damage]
    partial_path(file).write_bytes(b"\0" * size)
    with serving(send) as there:
        fetch(there.url, file)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_server_without_ranges_sends_the_whole_again(tmp_path: Path) -> None:
    file = wanted(tmp_path / "x")
    partial_path(file).parent.mkdir()
    partial_path(file).write_bytes(DATA[:5000])
    with serving(lambda request: request.answer(200, DATA)) as there:
        fetch(there.url, file)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_range_that_is_refused_starts_anew(tmp_path: Path) -> None:
    file = wanted(tmp_path / "x")
    partial_path(file).parent.mkdir()
    partial_path(file).write_bytes(DATA[:5000])

    def answer(request: Request) -> None:
        if "range" in request.headers:
            request.problem(416, "range-not-satisfiable", "No.")
        else:
            send(request)

    with serving(answer) as there:
        fetch(there.url, file)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_server_that_cuts_every_try_at_the_same_byte_is_given_up(tmp_path: Path) -> None:
    with (
        serving(lambda request: request.answer(200, DATA, cut=1000)) as there,
        pytest.raises(errors.Unavailable, match=r"broke off|early"),
    ):
        fetch(there.url, wanted(tmp_path / "x"), attempts=3)
    assert len(there.seen) <= 4
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("sent", [DATA[:-1] + b"!", DATA + b"!", DATA[:-1]], ids=["other", "more", "less"])
def test_wrong_bytes_are_refused_and_nothing_of_them_is_kept(tmp_path: Path, sent: bytes) -> None:
    with (
        serving(lambda request: request.answer(200, sent)) as there,
        pytest.raises(errors.DigestMismatch, match="x was announced"),
    ):
        fetch(there.url, wanted(tmp_path / "x"))
    assert [name for name in left(tmp_path) if name != ".crumb"] == []


def test_more_bytes_than_announced_are_not_written_even_without_a_length(tmp_path: Path) -> None:
    def answer(request: Request) -> None:
        request.handler.send_response(200)
        request.handler.send_header("Connection", "close")
        request.handler.end_headers()
        request.handler.wfile.write(DATA * 3)
        request.handler.close_connection = True

    with serving(answer) as there, pytest.raises(errors.DigestMismatch):
        fetch(there.url, wanted(tmp_path / "x"))
    assert [name for name in left(tmp_path) if name != ".crumb"] == []


def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    with serving(send) as there:
        fetch(there.url, wanted(tmp_path / "x"))
    assert there.seen == []


def test_a_file_with_other_bytes_is_replaced_only_by_verified_ones(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with serving(lambda request: request.answer(200, DATA[:-1] + b"!")) as there, pytest.raises(errors.DigestMismatch):
        fetch(there.url, wanted(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"old"


def test_many_files_come_together_and_one_that_is_missing_stops_them(tmp_path: Path) -> None:
    files = [Wanted(f"/{i}", tmp_path / str(i), SHA, len(DATA)) for i in range(8)]
    with serving(send) as there:
        fetch(there.url, *files)
    assert sorted(request.path for request in there.seen) == [f"/{i}" for i in range(8)]
    files.append(Wanted("/gone", tmp_path / "gone", SHA, len(DATA)))
    with (
        serving(lambda r: r.problem(404, "not-found", "No such file.")) as there,
        pytest.raises(errors.NotFound, match="No such file"),
    ):
        fetch(there.url, *files)
    assert [request.path for request in there.seen] == ["/gone"]


def test_an_empty_file_needs_no_request(tmp_path: Path) -> None:
    with serving(send) as there:
        fetch(there.url, wanted(tmp_path / "x", b""))
    assert there.seen == []
    assert (tmp_path / "x").read_bytes() == b""


def test_two_downloads_of_one_target_do_not_write_over_each_other(tmp_path: Path) -> None:
    file = wanted(tmp_path / "x")
    partial_path(file).parent.mkdir()
    with (
        downloads.lock_partial(partial_path(file)),
        serving(send) as there,
        pytest.raises(errors.WrongState, match="Another crumb"),
    ):
        fetch(there.url, file)


@pytest.mark.parametrize("size", [-1, 2**60])
def test_a_size_that_no_file_has_is_refused(tmp_path: Path, size: int) -> None:
    with serving(send) as there, pytest.raises(errors.Unavailable, match=f"x with {size} bytes"):
        fetch(there.url, Wanted("/file", tmp_path / "x", SHA, size))
    assert there.seen == []


def test_a_registry_that_goes_away_for_good_leaves_a_word_on_how_to_go_on(
    tmp_path: Path, no_pauses: list[float]
) -> None:
    connection = Connection("http://127.0.0.1:9", attempts=3)
    connection.answered = True
    with pytest.raises(errors.Unavailable, match="resumes where it stopped"):
        downloads.download(connection, wanted(tmp_path / "x"))
    connection.close()


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with serving(send) as there, pytest.raises(errors.WrongState, match="folder"):
        fetch(there.url, wanted(tmp_path / "x"))


class Uploads:
    """The upload protocol in memory, with faults to order."""

    part_size = 100_000

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {}
        self.session = 0
        self.done = False
        self.faults: dict[str, int] = {}
        self.lock = threading.Lock()

    def fault(self, name: str) -> bool:
        with self.lock:
            self.faults[name] = self.faults.get(name, 0) - 1
            return self.faults[name] >= 0

    def answer(self, request: Request) -> None:
        if request.path == "/api/v1/uploads":
            if self.fault("new session"):
                self.session += 1
                self.parts = {}
            self.show(request, 200 if self.done else 201)
        elif f"/uploads/s{self.session}/" not in request.path:
            request.problem(404, "not-found", "There is no such upload.")
        elif request.path.endswith("/complete"):
            self.complete(request)
        else:
            self.put(request, int(request.path.rpartition("/")[2]))

    def put(self, request: Request, number: int) -> None:
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        assert request.headers["content-length"] == str(len(request.body))
        if self.fault("cut"):
            request.hang_up()
        elif self.fault("gone"):
            self.session += 1
            self.parts = {}
            request.problem(404, "not-found", "There is no such upload.")
        elif request.headers["content-digest"] != f"sha-256=:{digest}:" or self.fault("damaged"):
            request.problem(422, "digest-mismatch", "Another digest.")
        elif self.fault("busy"):
            request.problem(429, "too-many", "Later.", Retry_After="0")
        else:
            self.parts[number] = request.body
            request.answer(200, {"number": number, "size": len(request.body), "sha256": "0" * 64})

    def complete(self, request: Request) -> None:
        whole = b"".join(self.parts[number] for number in sorted(self.parts))
        if self.missing():
            request.problem(409, "conflict", "Parts are missing.")
        elif hashlib.sha256(whole).hexdigest() != SHA:
            self.parts.pop(0)
            request.problem(422, "digest-mismatch", "The whole is another.")
        else:
            self.done = True
            self.show(request, 200)

    def missing(self) -> list[int]:
        return [n for n in range(-(-len(DATA) // self.part_size)) if n not in self.parts and not self.done]

    def show(self, request: Request, status: int) -> None:
        state = {"id": f"s{self.session}", "state": "done" if self.done else "open", "sha256": SHA, "size": len(DATA)}
        request.answer(status, {**state, "part_size": self.part_size, "missing": self.missing(), "expires_at": None})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "patch"
    path.write_bytes(DATA)
    return path


def put_up(uploads: Uploads, path: Path, **how: Any) -> list[Request]:
    with serving(uploads.answer) as there, Client(there.url, "hf_x") as client:
        assert transfers.upload(client, path, **how) == (SHA, len(DATA))
    assert uploads.done
    return [request for request in there.seen if request.method == "PUT"]


def test_an_upload_sends_every_part_once_and_is_counted(source: Path) -> None:
    told: list[tuple[int, int]] = []
    sent = put_up(Uploads(), source, progress=lambda done, total: told.append((done, total)))
    assert len(sent) == 11
    assert sorted(told) == told
    assert told[-1] == (len(DATA), len(DATA))


def test_an_upload_sends_only_what_the_registry_misses(source: Path) -> None:
    uploads = Uploads()
    uploads.parts = {n: DATA[n * 100_000 : (n + 1) * 100_000] for n in (0, 1, 2, 10)}
    assert len(put_up(uploads, source)) == 7


def test_bytes_that_are_there_are_not_sent(source: Path) -> None:
    uploads = Uploads()
    uploads.done = True
    assert put_up(uploads, source) == []


@pytest.mark.parametrize("fault", ["cut", "gone", "damaged", "busy"])
def test_an_upload_survives(source: Path, fault: str) -> None:
    uploads = Uploads()
    uploads.faults[fault] = 2
    put_up(uploads, source)


def test_an_upload_whose_parts_were_stored_wrong_sends_them_again(source: Path) -> None:
    uploads = Uploads()
    uploads.parts = {0: b"\0" * 100_000}
    sent = put_up(uploads, source)
    assert [request.path for request in sent].count("/api/v1/uploads/s0/parts/0") == 1
    assert len(sent) == 11


def test_a_registry_that_never_takes_the_upload_is_given_up(source: Path) -> None:
    uploads = Uploads()
    uploads.faults["gone"] = 1000
    with serving(uploads.answer) as there, Client(there.url) as client, pytest.raises(errors.NotFound):
        transfers.upload(client, source)


def test_a_file_that_changes_while_it_is_sent_is_told(source: Path) -> None:
    uploads = Uploads()

    def answer(request: Request) -> None:
        if request.method == "PUT" and not uploads.parts:
            source.write_bytes(DATA[::-1])
        uploads.answer(request)

    with serving(answer) as there, Client(there.url) as client, pytest.raises(errors.WrongState, match="changed"):
        transfers.upload(client, source)


@pytest.mark.parametrize(("part_size", "missing"), [(0, [0]), (-5, [0]), (1, [0]), (100_000, [11]), (100_000, [-1])])
def test_a_registry_that_asks_for_nonsense_is_refused(source: Path, part_size: int, missing: list[int]) -> None:
    def answer(request: Request) -> None:
        session = {"id": "s", "state": "open", "sha256": SHA, "size": len(DATA), "expires_at": None}
        request.answer(201, {**session, "part_size": part_size, "missing": missing})

    with serving(answer) as there, Client(there.url) as client, pytest.raises(errors.Unavailable, match="parts"):
        transfers.upload(client, source)
    assert len(there.seen) == 1


def test_a_missing_file_is_not_announced(tmp_path: Path) -> None:
    with (
        serving(lambda request: request.answer(500)) as there,
        Client(there.url) as client,
        pytest.raises(errors.NotFound),
    ):
        transfers.upload(client, tmp_path / "none")
    assert there.seen == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with serving(send) as there, pytest.raises(errors.StorageFailed):
        fetch(there.url, wanted(tmp_path / "x"))
