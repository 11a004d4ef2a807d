"""One function on many arguments, on processes of one thread each."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from avse.data.errors import InputError


def in_processes(
    function: Callable[..., Any], work: Sequence[tuple[Any, ...]], jobs: int, ordered: bool = False
) -> Iterator[Any]:
    """`function(*args)` for every tuple of arguments, on `jobs` processes of one thread each.

    Args:
        function: picklable.
        work: arguments.
        jobs: processes; one is this process itself.
        ordered: as the work is, else as soon as they are done.

    Raises:
        InputError: a process was killed.
    """
    if jobs == 1:
        yield from (function(*each) for each in work)
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    how = "generator" if ordered else "generator_unordered"
    with parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
        # One unit a batch: a result that is done does not wait for others.
        rows = Parallel(return_as=how, batch_size=1)(delayed(function)(*each) for each in work)
        try:
            yield from rows
        except TerminatedWorkerError as error:
            raise InputError(
                "a worker process was killed, as happens where memory is short; give the same command "
                "again with fewer jobs: finished rows are kept"
            ) from error
