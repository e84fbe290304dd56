"""Work shared among processes, results in the order of the tasks. No process outlives its owner, however that ends."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

from moldiff.errors import MoldiffError

HEARTBEAT = 0.5  # seconds between two calls of `idle` while a result is awaited


class WorkerError(MoldiffError):
    """A worker process ended before it had answered."""


class Here:
    """The protocol of :class:`Workers` within this process: a task runs when its result is asked for."""

    capacity = 1

    def __init__(self, work: Callable[..., Any]):
        self.work = work
        self.tasks: deque[tuple] = deque()

    def __len__(self) -> int:
        return len(self.tasks)

    def submit(self, *task: Any) -> None:
        self.tasks.append(task)

    def result(self, idle: Callable[[], None]) -> Any:
        return self.work(*self.tasks.popleft())

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        self.tasks.clear()


class Workers:
    """A process pool of ``count``; each process calls ``prepare(*arguments)`` once, and what that returns on every task.

    The owner alone holds one end of a pipe: when it closes that end, or dies, the workers end at once.
    """

    def __init__(self, count: int, prepare: Callable[..., Callable[..., Any]], *arguments: Any):
        context = get_context("spawn")
        self.capacity = 2 * count  # one task in work and one waiting, for each
        self.pending: deque[tuple[Future, SimpleQueue]] = deque()
        self.listener, self.lifeline = context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(count, context, _start, (self.listener, prepare, arguments))

    def __len__(self) -> int:
        """Tasks handed out whose results were not fetched yet."""
        return len(self.pending)

    def submit(self, *task: Any) -> None:
        done: SimpleQueue[Future] = SimpleQueue()
        try:
            with _sigint_blocked():
                future = self.pool.submit(_work, *task)
                future.add_done_callback(done.put)
        except BrokenProcessPool as error:
            raise _dead() from error
        self.pending.append((future, done))

    def result(self, idle: Callable[[], None]) -> Any:
        """The result of the oldest task, or its exception; calls ``idle`` now and then while it waits."""
        future, done = self.pending.popleft()
        # Not by waiting for the future: an interruption there may keep a lock that the pool then waits for at its end.
        while True:
            try:
                done.get(timeout=HEARTBEAT)
                break
            except Empty:
                idle()
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise _dead() from error

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        """Stop at once, whatever is unfinished."""
        self.lifeline.close()
        # A worker may end in the middle of sending a result: the thread that reads it sees the end only when nobody is left
        # who could go on writing, and this process could.
        with suppress(AttributeError, OSError):  # nothing here may take the place of what ended the work
            self.pool._result_queue._writer.close()
        self.pool.shutdown(cancel_futures=True)
        self.listener.close()


def in_order(
    crew: Here | Workers, next_task: Callable[[], tuple | None], idle: Callable[[], None]
) -> Iterator[tuple[tuple, Any]]:
    """(task, result) of all tasks in their order, as many under way as the crew takes; with the last, the crew ends.

    ``next_task`` is asked whenever there is room, and may have another task after it had none.
    """
    under_way: deque[tuple] = deque()
    with crew:
        while True:
            while len(crew) < crew.capacity and (task := next_task()) is not None:
                crew.submit(*task)
                under_way.append(task)
            if not under_way:
                return
            result = crew.result(idle)
            yield under_way.popleft(), result


def _dead() -> WorkerError:
    return WorkerError("a worker process ended unexpectedly, perhaps for want of memory; use fewer --workers")


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, which a terminal sends to all: their owner stops them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting with the first process it would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_prepared: list[Callable[[], Callable[..., Any]]] = []  # in a worker process: what makes its work


def _start(listener: Connection, prepare: Callable[..., Callable[..., Any]], arguments: tuple) -> None:
    threading.Thread(target=_end_with_owner, args=(listener,), daemon=True).start()
    work: list[Callable[..., Any]] = []

    def once() -> Callable[..., Any]:
        if not work:
            work.append(prepare(*arguments))
        return work[0]

    _prepared.append(once)  # at the first task, so that its failure reaches the owner as that task's exception


def _end_with_owner(listener: Connection) -> None:
    try:
        listener.recv()
    except (EOFError, OSError):
        os._exit(0)


def _work(*task: Any) -> Any:
    return _prepared[0]()(*task)
