"""The web page: routes of a Starlette application around `avse.serve.jobs.Jobs`.

    GET  /                    the page
    POST /jobs?model=...      a recording in the body, none for the talking mouth -> {"job": name}
    GET  /jobs/NAME           how far it is, and the result
    GET  /jobs/NAME/SOUND.wav
    DELETE /jobs/NAME         stop it

The page asks for nothing from other hosts, and a content security policy keeps it so. Results are held in
memory; an upload lies in a temporary folder until its job has ended.
"""

import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as WebRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avse.data.errors import InputError
from avse.serve.choices import ALGORITHMS, AUTO, MODELS, OWN, PRIORS, check_choice
from avse.serve.job import SAMPLES, Request
from avse.serve.jobs import Job, Jobs, Run
from avse.serve.uploads import MAX_BYTES, MAX_SECONDS, TOO_LARGE

FOLDER = Path(__file__).parent
VISITOR = "avse-visitor"
"""Name of the cookie that tells visitors apart."""
BODY = "application/octet-stream"
"""Type of every posted body: a page of another site cannot post it without being asked back."""
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cache-control": "no-store",
}


class SecureHeaders:
    """Adds `SECURITY` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The response of the application with these headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def application(run: Run, hosts: Sequence[str], seed: int = 0) -> Starlette:
    """The page as an ASGI application.

    Args:
        run: does the work of a request, such as `avse.serve.job.run_job`.
        hosts: names that the page may be asked by; "*" for any.
        seed: of every job.
    """
    page = Page(run, seed)
    return Starlette(
        routes=[
            Route("/", page.show),
            Route("/jobs", page.add, methods=["POST"]),
            Route("/jobs/{job}", page.tell, methods=["GET"]),
            Route("/jobs/{job}", page.stop, methods=["DELETE"]),
            Route("/jobs/{job}/{sound}.wav", page.sound, methods=["GET"]),
            Mount("/static", StaticFiles(directory=FOLDER / "static")),
        ],
        middleware=[Middleware(SecureHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        lifespan=page.lifespan,
    )


class Page:
    """The state of a running page: its queue and its folder of uploads.

    Args:
        run: does the work of a request.
        seed: of every job.
    """

    def __init__(self, run: Run, seed: int = 0) -> None:
        self.run, self.seed = run, seed
        environment = Environment(loader=FileSystemLoader(FOLDER / "templates"), autoescape=True)
        self.html = environment.get_template("page.html").render(
            choices=choices(), samples=SAMPLES, megabytes=MAX_BYTES // 10**6, seconds=f"{MAX_SECONDS:g}"
        )
        self.jobs: Jobs
        self.folder: Path

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """The queue and the folder of uploads live as long as the server."""
        with TemporaryDirectory(prefix="avse-demo-") as folder:
            self.folder, self.jobs = Path(folder), Jobs(self.run)
            try:
                yield
            finally:
                self.jobs.close()

    async def show(self, request: WebRequest) -> Response:
        """The page, with a cookie for a new visitor."""
        response = HTMLResponse(self.html)
        if VISITOR not in request.cookies:
            response.set_cookie(VISITOR, secrets.token_urlsafe(16), httponly=True, samesite="strict")
        return response

    async def add(self, request: WebRequest) -> Response:
        """Take a recording and put it into the queue."""
        visitor = request.cookies.get(VISITOR)
        if visitor is None or request.headers.get("content-type") != BODY:
            return refusal("open the page first, and press its button", 403)
        chosen = {name: request.query_params.get(name, "") for name in ("model", "algorithm", "prior")}
        upload = None
        try:
            check_choice(**chosen)
            self.jobs.check_place(visitor)
            upload = await self.stored(request)
            job = self.jobs.add(visitor, Request(upload, **chosen, seed=self.seed))
        except InputError as error:
            if upload is not None:
                upload.unlink(missing_ok=True)
            return refusal(str(error), 413 if str(error) == TOO_LARGE else 400)
        return JSONResponse({"job": job.name}, 202)

    async def stored(self, request: WebRequest) -> Path | None:
        """The body of a request as a file; None for an empty one.

        Raises:
            InputError: it is larger than `MAX_BYTES`, or ended before it was whole.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > MAX_BYTES:
            raise InputError(TOO_LARGE)
        whole, size = False, 0
        with NamedTemporaryFile(dir=self.folder, delete=False) as file:
            path = Path(file.name)
            try:
                async for block in request.stream():
                    size += len(block)
                    if size > MAX_BYTES:
                        raise InputError(TOO_LARGE)
                    file.write(block)
                file.flush()
                whole = size > 0
            except ClientDisconnect as error:
                raise InputError("the upload was broken off") from error
            finally:
                if not whole:  # also on a full disk, which would stay full
                    path.unlink()
        return path if whole else None

    async def tell(self, request: WebRequest) -> Response:
        """How far a job is, and its result."""
        job = self.job_of(request)
        if job is None:
            return refusal("this result is no longer kept: press the button again", 404)
        return JSONResponse(state(job, self.jobs.place(job)))

    async def stop(self, request: WebRequest) -> Response:
        """Stop a job."""
        job = self.job_of(request)
        if job is not None:
            self.jobs.stop(job)
        return Response(status_code=204)

    async def sound(self, request: WebRequest) -> Response:
        """A sound of a result, whole or a range of its bytes, as players ask for it."""
        job = self.job_of(request)
        if job is None or not job.future.done() or job.failure() is not None:
            return refusal("there is no such sound", 404)
        sound = job.future.result().sounds.get(request.path_params["sound"])
        if sound is None:
            return refusal("there is no such sound", 404)
        return ranged(sound.wav, request.headers.get("range", ""))

    def job_of(self, request: WebRequest) -> Job | None:
        """The job of an address, if it is this visitor's."""
        return self.jobs.of(request.path_params["job"], request.cookies.get(VISITOR, ""))


def ranged(content: bytes, wanted: str) -> Response:
    """A WAV file, or the part that a header such as "bytes=100-" or "bytes=100-199" names.

    Any other header is ignored, as HTTP allows.
    """
    headers = {"accept-ranges": "bytes"}
    found = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{0,18})", wanted)
    begin, last = (int(found[1]), int(found[2] or len(content))) if found else (len(content), 0)
    if not begin <= last or begin >= len(content):
        return Response(content, media_type="audio/wav", headers=headers)
    end = min(last + 1, len(content))
    headers["content-range"] = f"bytes {begin}-{end - 1}/{len(content)}"
    return Response(content[begin:end], 206, media_type="audio/wav", headers=headers)


def refusal(sentence: str, code: int) -> Response:
    """One sentence that says why not."""
    return JSONResponse({"error": sentence}, code)


def state(job: Job, before: int) -> dict[str, Any]:
    """A job for the page: "waiting", "running", "failed" or "done", with what belongs to each."""
    if not job.future.done():
        if job.started is None:
            return {"state": "waiting", "before": before}
        return {"state": "running", "doing": job.doing, "fraction": job.fraction}
    failure = job.failure()
    if failure is not None:
        return {"state": "failed", "error": failure}
    result = job.future.result()
    return {
        "state": "done",
        "sounds": [{"name": sound.name, "title": sound.title} for sound in result.sounds.values()],
        "pictures": {name: picture._asdict() for name, picture in result.pictures.items()},
        "facts": result.facts,
        "notes": result.notes,
        "alpha": result.alpha,
        "exact_samples": result.exact_samples,
    }


def choices() -> dict[str, Any]:
    """What the page offers, plain values."""
    return {
        "models": [asdict(model) for model in MODELS.values()],
        "algorithms": dict(ALGORITHMS),
        "priors": dict(PRIORS),
        "auto": AUTO,
        "own": OWN,
        "limits": {"bytes": MAX_BYTES, "seconds": MAX_SECONDS, "too_large": TOO_LARGE},
    }
