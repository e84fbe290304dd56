"""Order, errors and the end of worker processes. Imports little, as every worker imports this file."""

import os
import signal
import time
from multiprocessing import active_children

import pytest

from moldiff.workers import Here, WorkerError, Workers


class Waiting:
    """Waits as long as it is told, then answers."""

    def __init__(self, name: str):
        if name == "broken":
            raise LookupError("no such name")
        self.name = name

    def __call__(self, seconds: float) -> str:
        if seconds < 0:
            raise ValueError("negative")
        time.sleep(seconds)
        return f"{self.name}{seconds}"


def idle() -> None:
    pass


def test_results_come_in_order_and_errors_where_they_arose():
    ticks = []
    with Workers(2, Waiting, "x") as crew:
        for task in (0.7, 0.0, -1.0, 0.1):
            crew.submit(task)
        assert len(crew) == 4 == crew.capacity
        assert crew.result(lambda: ticks.append(1)) == "x0.7"
        assert ticks, "the owner had no chance to do anything while it waited"
        assert crew.result(idle) == "x0.0"
        with pytest.raises(ValueError, match="negative"):
            crew.result(idle)
        assert crew.result(idle) == "x0.1"
        crew.submit(600.0)  # is not waited for in the end
        crew.submit(600.0)
        os.kill(active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="fewer --workers"):
            crew.result(idle)
        with pytest.raises(WorkerError):
            crew.submit(0.0)


def test_unfinished_work_is_not_waited_for():
    with Workers(2, Waiting, "x") as crew:
        crew.submit(0.0)
        crew.submit(600.0)
        crew.submit(600.0)
        assert crew.result(idle) == "x0.0"
        assert active_children()
    assert not active_children()


class Large:
    """Answers with as many bytes as it is told."""

    def __call__(self, size: int) -> bytes:
        return bytes(size)


def test_a_result_on_its_way_is_not_waited_for_either():
    for delay in (0.0, 0.02, 0.05):
        with Workers(1, Large) as crew:
            crew.submit(1)
            assert crew.result(idle) == b"\0"
            assert hasattr(crew.pool._result_queue, "_writer"), "it is what the end of Workers closes"
            crew.submit(2 * 10**8)
            time.sleep(delay)
        assert not active_children()


def test_a_worker_that_cannot_start_says_why():
    with Workers(1, Waiting, "broken") as crew:
        crew.submit(0.0)
        with pytest.raises(LookupError, match="no such name"):
            crew.result(idle)


def test_here():
    with Here(Waiting("y")) as crew:
        crew.submit(0.0)
        assert len(crew) == 1 == crew.capacity
        assert crew.result(idle) == "y0.0"
        assert len(crew) == 0
