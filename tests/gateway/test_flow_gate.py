from __future__ import annotations

import threading

import pytest

from gateway.stages.gate import Gate


def test_a_closed_gate_waits_for_those_inside_and_lets_nobody_in() -> None:
    gate = Gate()
    inside, leave, entered_late = (threading.Event() for _ in range(3))

    def step() -> None:
        with gate.passing():
            inside.set()
            leave.wait(30)

    def late_step() -> None:
        with gate.passing():
            entered_late.set()

    worker = threading.Thread(target=step)
    worker.start()
    assert inside.wait(30)

    assert gate.close(0.0) is False
    threading.Thread(target=late_step, daemon=True).start()
    leave.set()
    assert gate.close(30.0) is True
    worker.join()
    assert not entered_late.is_set()


def test_an_open_gate_is_left_even_by_failures() -> None:
    gate = Gate()

    def fail() -> None:
        with gate.passing():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert gate.close(0.0) is True
