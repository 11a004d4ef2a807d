"""The queue of the page: one job runs, the others wait, and each visitor has one at a time.

An upload belongs to its job: its file is removed when the job ends, however it ends.
"""

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from avse.data.errors import InputError
from avse.serve.job import Progress, Request, Result

LONGEST_QUEUE = 8
"""Jobs that wait or run."""
KEPT = 20
"""Results that are kept, the newest."""
MAX_JOB_SECONDS = 180.0

ONE_AT_A_TIME = "your last recording is still being enhanced: wait for it, or stop it"
QUEUE_IS_FULL = "too many recordings are waiting: try again in a few minutes"
TOOK_TOO_LONG = f"this took more than {MAX_JOB_SECONDS:g} s: take a shorter recording or a faster algorithm"
STOPPED = "stopped"
FAILED = "something went wrong on the server, and no result was made: try another recording or algorithm"

log = logging.getLogger(__name__)

Run = Callable[[Request, Progress], Result]


class Stopped(InputError):
    """The job was stopped by its visitor, by the end of the server, or by the clock."""


@dataclass
class Job:
    """A request on its way.

    Attributes:
        name: a random one, which cannot be guessed.
        visitor: whose job it is.
        request: what to run.
        doing: what is being done.
        fraction: of the work that is done.
        started: when it began to run, s on the monotonic clock; None while it waits.
        stop: set to stop it.
    """

    name: str
    visitor: str
    request: Request
    doing: str = "waiting"
    fraction: float = 0.0
    started: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    future: "Future[Result]" = field(default_factory=Future)

    def report(self, doing: str, fraction: float) -> None:
        """Keep the progress.

        Raises:
            Stopped: the job is to end.
        """
        if self.stop.is_set():
            raise Stopped(STOPPED)
        if self.started is not None and time.monotonic() - self.started > MAX_JOB_SECONDS:
            raise Stopped(TOOK_TOO_LONG)
        self.doing, self.fraction = doing, fraction

    def failure(self) -> str | None:
        """Why a job that is done has no result, in words for visitors; None if it has one."""
        if self.future.cancelled():
            return STOPPED
        error = self.future.exception()
        if error is None:
            return None
        return str(error) if isinstance(error, InputError) else FAILED


class Jobs:
    """Jobs in the order they came, run one after the other on a thread.

    Args:
        run: does the work of a request, such as `avse.serve.job.run_job`.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="avse-job")
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()

    def check_place(self, visitor: str) -> None:
        """Check that the visitor may add a job.

        Raises:
            InputError: they have one that is not done, or the queue is full.
        """
        unfinished = [job for job in list(self._jobs.values()) if not job.future.done()]
        if any(job.visitor == visitor for job in unfinished):
            raise InputError(ONE_AT_A_TIME)
        if len(unfinished) >= LONGEST_QUEUE:
            raise InputError(QUEUE_IS_FULL)

    def add(self, visitor: str, request: Request) -> Job:
        """Put a request into the queue; earlier results of the visitor are forgotten.

        Raises:
            InputError: see `check_place`; the upload is then still the caller's.
        """
        with self._lock:
            self.check_place(visitor)
            for name in [job.name for job in self._jobs.values() if job.visitor == visitor]:
                del self._jobs[name]
            while len(self._jobs) >= KEPT:
                self._forget_oldest()
            job = Job(secrets.token_urlsafe(16), visitor, request)
            self._jobs[job.name] = job
            job.future = self._executor.submit(self._work, job)
        job.future.add_done_callback(lambda future: _end(job))
        return job

    def _forget_oldest(self) -> None:
        oldest = next(job.name for job in self._jobs.values() if job.future.done())
        del self._jobs[oldest]

    def _work(self, job: Job) -> Result:
        job.started = time.monotonic()
        return self._run(job.request, job.report)

    def of(self, name: str, visitor: str) -> Job | None:
        """The job of that name, if it is the visitor's."""
        job = self._jobs.get(name)
        own = job is not None and secrets.compare_digest(job.visitor.encode(), visitor.encode())
        return job if own else None

    def place(self, job: Job) -> int:
        """How many jobs are before this one in the queue."""
        before = 0
        for other in list(self._jobs.values()):
            if other is job:
                break
            before += not other.future.done()
        return before

    def stop(self, job: Job) -> None:
        """End a job: at once if it waits, else when it next reports its progress."""
        job.stop.set()
        job.future.cancel()

    def close(self) -> None:
        """Stop all jobs and wait until the running one has ended."""
        for job in list(self._jobs.values()):
            self.stop(job)
        self._executor.shutdown(wait=True, cancel_futures=True)


def _end(job: Job) -> None:
    """Remove the upload, and tell the log of a failure that is no mistake of the visitor."""
    if job.request.upload is not None:
        job.request.upload.unlink(missing_ok=True)
    error = None if job.future.cancelled() else job.future.exception()
    if error is not None and not isinstance(error, InputError):
        log.error("a job failed: %r", job.request, exc_info=error)
