"""Work shared among processes, results in the order of the tasks. No process outlives its owner, however that ends."""

import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
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
    """``count`` processes; each calls ``prepare(*arguments)`` once, and the function that it returns on every task.

    Each has a pipe of its own to the owner: a worker whose owner was killed reads the end of its pipe and leaves.
    """

    def __init__(self, count: int, prepare: Callable[..., Callable[..., Any]], *arguments: Any):
        self.capacity = 2 * count  # one task in work and one waiting, for each
        self.pipes: list[Connection] = []
        self.processes = []
        self.pending: deque[Connection] = deque()
        self.submitted = 0
        context = get_context("spawn")
        with _sigint_blocked():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, prepare, arguments), daemon=True)
                process.start()
                theirs.close()
                self.pipes.append(ours)
                self.processes.append(process)

    def __len__(self) -> int:
        """Tasks handed out whose results were not fetched yet."""
        return len(self.pending)

    def submit(self, *task: Any) -> None:
        pipe = self.pipes[self.submitted % len(self.pipes)]
        try:
            pipe.send(task)
        except OSError as error:
            raise _dead() from error
        self.pending.append(pipe)
        self.submitted += 1

    def result(self, idle: Callable[[], None]) -> Any:
        """The result of the oldest task, or its exception; calls ``idle`` now and then while it waits."""
        pipe = self.pending.popleft()
        try:
            while not pipe.poll(HEARTBEAT):
                idle()
            succeeded, value = pipe.recv()
        except (EOFError, OSError) as error:
            raise _dead() from error
        if not succeeded:
            raise value
        return value

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        """Stop at once, whatever is unfinished."""
        for process in self.processes:
            process.terminate()
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            process.join()
            pipe.close()


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


def _serve(pipe: Connection, prepare: Callable[..., Callable[..., Any]], arguments: tuple) -> None:
    """What a worker does until its owner hangs up."""
    work = None
    try:
        while True:
            task = pipe.recv()
            try:
                work = work or prepare(*arguments)
                answer = True, work(*task)
            except Exception as error:
                answer = False, error
            pipe.send(answer)
    except (EOFError, OSError):
        return
