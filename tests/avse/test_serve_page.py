"""The page's routes and its queue, around a job that does next to nothing."""

import logging
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx", reason="the test client of Starlette needs httpx")

from starlette.testclient import TestClient  # noqa: E402

from avse.cli import app as cli  # noqa: E402
from avse.data.errors import InputError  # noqa: E402
from avse.serve import jobs, page  # noqa: E402
from avse.serve.job import Picture, Progress, Request, Result, Sound  # noqa: E402
from avse.serve.page import BODY, application  # noqa: E402
from avse.serve.server import is_loopback, listening  # noqa: E402

CHOICE = {"model": "auto", "algorithm": "auto", "prior": "own"}
HEADERS = {"content-type": BODY}


class Work:
    """Jobs that wait until they are let go, and then do what the body of their upload says."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.seen: list[Path | None] = []

    def __call__(self, request: Request, progress: Progress) -> Result:
        self.seen.append(request.upload)
        said = b"" if request.upload is None else request.upload.read_bytes()
        while not self.go.wait(0.01):
            progress("enhancing", 0.5)
        if said == b"mistake":
            raise InputError("the recording is empty")
        if said == b"failure":
            raise RuntimeError("/srv/secret/place")
        sounds = {"noisy": Sound("noisy", "noisy recording", b"RIFF" + bytes(100))}
        return Result(sounds, {"noisy": Picture("noisy", "text", "data:")}, {"model": "a"}, [], False, True)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def client(work: Work, temporary: Path) -> Iterator[TestClient]:
    """A visitor who has opened the page."""
    with TestClient(application(work, ["testserver"]), base_url="http://testserver") as client:
        assert client.get("/").status_code == 200
        yield client


def add(client: TestClient, body: bytes = b"", **choice: str) -> httpx.Response:
    return client.post("/jobs", params={**CHOICE, **choice}, content=body, headers=HEADERS)


def ended(client: TestClient, name: str) -> dict:
    for _ in range(500):
        told = client.get(f"/jobs/{name}").json()
        if told["state"] in ("done", "failed"):
            return told
        time.sleep(0.01)
    pytest.fail("the job did not end")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_job_runs_and_its_upload_is_gone(client: TestClient, work: Work, temporary: Path) -> None:
    name = add(client, b"sound").json()["job"]
    while not work.seen:
        time.sleep(0.01)
    told = client.get(f"/jobs/{name}").json()
    assert (told["state"], told["doing"]) == ("running", "enhancing") or told["fraction"] == 0
    assert len(files(temporary)) == 1
    work.go.set()
    told = ended(client, name)
    assert told["state"] == "done"
    assert told["sounds"] == [{"name": "noisy", "title": "noisy recording"}]
    assert str(temporary) not in str(told)
    assert files(temporary) == []
    sound = client.get(f"/jobs/{name}/noisy.wav")
    assert (sound.headers["content-type"], len(sound.content)) == ("audio/wav", 104)
    part = client.get(f"/jobs/{name}/noisy.wav", headers={"range": "bytes=2-9"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (
        206,
        sound.content[2:10],
        "bytes 2-9/104",
    )
    assert client.get(f"/jobs/{name}/other.wav").status_code == 404


@pytest.mark.parametrize(
    "wanted", ["", "bytes=5-2", "bytes=104-", "bytes=\u00b2-", "bytes=-3", "bytes=0-2,4-5", "items=0-2"]
)
def test_ranges_that_are_none_are_ignored(wanted: str) -> None:
    told = page.ranged(bytes(104), wanted)
    assert (told.status_code, len(told.body)) == (200, 104)


def test_a_visitor_may_have_any_name() -> None:
    queue = jobs.Jobs(lambda request, progress: Result({}, {}, {}, [], False, True))
    job = queue.add("\u00e9", Request())
    assert queue.of(job.name, "\u00e9") is job
    assert queue.of(job.name, "\u00e8") is None
    queue.close()


def test_an_upload_that_cannot_be_written_is_gone(
    work: Work, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A file on a full disk."""

        def __init__(self, **options: object) -> None:
            self.name = str(temporary / "upload")

        def __enter__(self) -> "Full":
            Path(self.name).touch()
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def write(self, block: bytes) -> None:
            raise OSError("No space left on device")

    monkeypatch.setattr(page, "NamedTemporaryFile", Full)
    app = application(work, ["testserver"])
    with TestClient(app, base_url="http://testserver", raise_server_exceptions=False) as client:
        client.get("/")
        assert add(client, b"sound").status_code == 500
        assert files(temporary) == []


def test_one_job_a_visitor_and_a_queue_for_all(client: TestClient, work: Work) -> None:
    first = add(client).json()["job"]
    again = add(client)
    assert (again.status_code, again.json()["error"]) == (400, jobs.ONE_AT_A_TIME)
    other = TestClient(client.app, base_url="http://testserver")
    other.get("/")
    second = add(other).json()["job"]
    assert other.get(f"/jobs/{second}").json() == {"state": "waiting", "before": 1}
    assert other.get(f"/jobs/{first}").status_code == 404  # it is not theirs
    work.go.set()
    assert ended(client, first)["state"] == ended(other, second)["state"] == "done"


def test_a_full_queue_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LONGEST_QUEUE", 1)
    add(client)
    other = TestClient(client.app, base_url="http://testserver")
    other.get("/")
    assert add(other).json()["error"] == jobs.QUEUE_IS_FULL


def test_results_of_the_past_are_forgotten(client: TestClient, work: Work) -> None:
    work.go.set()
    first = add(client).json()["job"]
    ended(client, first)
    ended(client, add(client).json()["job"])
    assert client.get(f"/jobs/{first}").status_code == 404


def test_mistakes_are_told_and_failures_are_not(
    client: TestClient, work: Work, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work.go.set()
    told = ended(client, add(client, b"mistake").json()["job"])
    assert told == {"state": "failed", "error": "the recording is empty"}
    with caplog.at_level(logging.ERROR):
        told = ended(client, add(client, b"failure").json()["job"])
    assert told == {"state": "failed", "error": jobs.FAILED}
    assert "/srv/secret/place" in caplog.text  # on the server
    assert files(temporary) == []


def test_a_job_is_stopped_while_it_runs_and_while_it_waits(
    client: TestClient, work: Work, temporary: Path
) -> None:
    running = add(client, b"sound").json()["job"]
    other = TestClient(client.app, base_url="http://testserver")
    other.get("/")
    waiting = add(other, b"sound").json()["job"]
    for visitor, name in ((other, waiting), (client, running)):
        assert visitor.delete(f"/jobs/{name}").status_code == 204
        assert ended(visitor, name) == {"state": "failed", "error": jobs.STOPPED}
    assert files(temporary) == []


def test_a_job_that_takes_too_long_ends(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_JOB_SECONDS", 0.05)
    assert ended(client, add(client).json()["job"])["error"] == jobs.TOOK_TOO_LONG


def test_uploads_that_are_too_large_are_refused_and_gone(
    client: TestClient, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_BYTES", 100)
    announced = add(client, bytes(101))
    assert (announced.status_code, announced.json()["error"]) == (413, page.TOO_LARGE)
    in_pieces = client.post("/jobs", params=CHOICE, content=(bytes(60) for _ in range(3)), headers=HEADERS)
    assert (in_pieces.status_code, in_pieces.json()["error"]) == (413, page.TOO_LARGE)
    assert files(temporary) == []


def test_choices_that_are_not_offered_are_refused(client: TestClient) -> None:
    told = add(client, model="../../etc")
    assert told.status_code == 400
    assert "unknown model" in told.json()["error"]


def test_nothing_is_left_when_the_server_ends(work: Work, temporary: Path) -> None:
    with TestClient(application(work, ["testserver"]), base_url="http://testserver") as client:
        client.get("/")
        add(client, b"sound")
        assert len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []


def test_pages_of_other_sites_cannot_use_it(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    simple = client.post("/jobs", params=CHOICE, content=b"x", headers={"content-type": "text/plain"})
    assert simple.status_code == 403
    stranger = TestClient(client.app, base_url="http://testserver")
    assert add(stranger).status_code == 403  # without the cookie of the page
    cookie = TestClient(client.app, base_url="http://testserver").get("/").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_the_page_asks_for_nothing_from_other_hosts(client: TestClient) -> None:
    told = client.get("/")
    policy = told.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    for text in (told.text, *(client.get(f"/static/{name}").text for name in ("page.css", "page.js"))):
        assert "http://" not in text
        assert "https://" not in text


def test_a_port_that_is_taken_is_refused_in_one_sentence() -> None:
    with listening("127.0.0.1", 0) as taken, pytest.raises(InputError, match="give another --host or --port"):
        listening("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InputError, match="from 0 to 65535"):
        listening("127.0.0.1", 70000)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_without_the_extra_one_line_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "avse.serve.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setattr(sys, "argv", ["avse", "demo", "--serve"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if not each.startswith("note:")]
    assert "avse[serve" in line
