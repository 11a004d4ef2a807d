"""Interrupts of training: SIGINT raises `KeyboardInterrupt`, as in any other Python code.

Lightning turns an interrupt into `SystemExit` with code 1 and ignores every further SIGINT of the process.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """Raise `KeyboardInterrupt` for an interrupt within the block; restore the handler of SIGINT after it.

    In a thread other than the main one, which receives no signals, the handler is left as it is.

    Raises:
        KeyboardInterrupt: the block was interrupted.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from ended
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
