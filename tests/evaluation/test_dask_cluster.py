"""A Dask cluster computes the same table, also when one of its workers is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from avse.evaluation.protocols import Synthetic
from avse.evaluation.runner import evaluate
from avse.evaluation.store import load_results
from avse.systems import EnhancementSystem
from avse.zoo.pair import SpeechPair

pytest.importorskip("distributed")

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__DASHBOARD__LINK": ""}


@contextmanager
def started(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of Dask's command line, killed at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
            stdout=file,
            stderr=file,
            env=ENVIRONMENT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(pattern: str, log: Path) -> str:
    """The match of a pattern in a log that is being written."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := re.search(pattern, log.read_text()):
            return found[0]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Dask about the versions of its own parts
def test_a_worker_that_is_killed_costs_no_row(tmp_path: Path, tiny_pair: SpeechPair) -> None:
    """A scheduler, and two workers without a nanny: the one that is killed does not come back."""
    protocol = Synthetic(levels=(0.0, 5.0), noises=("white",))
    systems = [EnhancementSystem(tiny_pair, name=name) for name in ("first", "second")]
    logs = [tmp_path / f"{name}.log" for name in ("scheduler", "left", "right")]
    with started("dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard", log=logs[0]):
        address = wait_for(r"tcp://127\.0\.0\.1:\d+", logs[0])
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path))
        with (
            started("dask_worker", address, *options, log=logs[1]) as left,
            started("dask_worker", address, *options, log=logs[2]),
        ):
            for log in logs[1:]:
                wait_for("Starting established connection", log)

            def kill_one(fraction: float) -> None:
                if fraction >= 0.25 and left.poll() is None:
                    os.kill(left.pid, signal.SIGKILL)
                    left.wait()

            evaluate(
                protocol,
                systems,
                tmp_path / "cluster",
                limit=6,
                metrics=("si_sdr", "stoi"),
                dask_scheduler=address,
                progress=kill_one,
            )
            assert left.poll() == -signal.SIGKILL
    evaluate(protocol, systems, tmp_path / "alone", limit=6, metrics=("si_sdr", "stoi"))
    cluster, alone = (load_results(tmp_path / name) for name in ("cluster", "alone"))
    assert len(alone) == 12
    assert set(cluster.status) == {"done"}
    times = ["seconds", "real_time_factor"]
    pd.testing.assert_frame_equal(
        cluster.drop(columns=times), alone.drop(columns=times), rtol=1e-3, atol=1e-3
    )
