"""SIGINT during training, as a caller of the library sees it."""

import signal
import threading

import pytest

from avse.inference.svi.interrupts import keyboard_interrupts


def lightnings_answer() -> None:
    """Ignore further interrupts and leave by `SystemExit`, as Lightning does."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise SystemExit(1)  # noqa: B904


def test_an_interrupt_is_one_for_the_caller_and_the_next_one_is_heard() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), keyboard_interrupts():
        lightnings_answer()
    assert signal.getsignal(signal.SIGINT) is before


def test_other_exits_and_errors_are_left_alone() -> None:
    with pytest.raises(SystemExit), keyboard_interrupts():
        raise SystemExit(3)
    with pytest.raises(ValueError, match="own"), keyboard_interrupts():
        raise ValueError("own")


def test_training_in_a_thread() -> None:
    """Only the main thread may set handlers of signals."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with keyboard_interrupts():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
