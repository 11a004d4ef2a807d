"""Rows of an evaluation, computed on an existing Dask cluster.

The workers have the same version of this package installed and see the same files under the same names. A
unit whose worker dies is computed by another one. Rows come back to the parent, which alone writes them.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from avse.data.errors import InputError

if TYPE_CHECKING:
    from avse.evaluation.runner import Unit

CONNECT_TIMEOUT = 15  # s


def computed_on_cluster(work: "Sequence[Unit]", address: str) -> "Iterator[dict[str, Any]]":
    """The rows of units, in the order in which they are done.

    Args:
        work: units.
        address: of the scheduler, such as "tcp://10.0.0.1:8786".

    Raises:
        InputError: `distributed` is not installed, or there is no scheduler at the address.
    """
    try:
        from distributed import Client, as_completed
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; pip install 'avse[evaluation]'") from error
    from avse.evaluation.runner import failed_row, result_row

    try:
        client = Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{address}: no Dask scheduler answers there ({error}); start one with `dask scheduler`"
        ) from error
    with client:
        tasks = client.map(result_row, work, pure=False) if work else []
        unit_of = {task.key: unit for task, unit in zip(tasks, work, strict=True)}
        for task in as_completed(tasks, loop=client.loop):
            if task.status == "finished":
                yield task.result()
            elif task.status == "error":  # such as a unit that killed several workers
                lost = task.exception()
                yield failed_row(unit_of[task.key], f"{type(lost).__name__}: {lost}")
            else:
                raise InputError(
                    f"{address}: the scheduler has gone; give the same command again with one that runs: "
                    "finished rows are kept"
                )
