"""Work on records in processes with a time limit that nothing can evade: whoever exceeds it is ended and replaced.

RDKit's C++ cannot be interrupted from within its process. The processes are fresh interpreters that speak JSON, one line
each way, so that the caller's script is not run again, as multiprocessing would, nor his threads copied.
"""

import json
import os
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from threading import Lock
from typing import Any, NamedTuple

from moldiff.datasets.records import Record
from moldiff.errors import MoldiffError

TIMEOUT, CRASH = "timeout", "crash"
TIMED_OUT = -signal.SIGALRM  # exit status of a process that the timer ended at the limit
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class CrewError(MoldiffError):
    """The processes that look at molecules do not start, or lack a library."""


class Answer(NamedTuple):
    """What came out for a record: a value, or the reason why there is none ("timeout", "crash", an exception)."""

    record: Record
    value: Any
    reason: str = ""


class Crew:
    """Up to ``count`` processes; no record takes more than ``limit`` seconds. None starts before there is work."""

    def __init__(self, count: int, limit: float, program: str = "moldiff.record_work"):
        self.count = count
        self.members = [Member(limit, program) for _ in range(count)]
        self.idle: queue.LifoQueue[Member] = queue.LifoQueue()  # who has started already comes first
        for member in self.members:
            self.idle.put(member)

    def map(self, task: str, records: Iterable[Record], size: int, **options: Any) -> Iterator[Answer]:
        """The answers to ``task``, in the order of the records, of which no more are in memory than in work.

        ``size``: records that a process gets at a time. If they exceed the limit together, each gets it alone.
        """
        pending: deque[Future] = deque()
        records = iter(records)
        with ThreadPoolExecutor(self.count) as threads:
            try:
                while chunk := list(islice(records, size)):
                    pending.append(threads.submit(self._answered, task, options, chunk))
                    if len(pending) > 2 * self.count:
                        yield from pending.popleft().result()
                while pending:
                    yield from pending.popleft().result()
            except BaseException:  # given up, Ctrl-C or an error: what is in work is not waited for
                threads.shutdown(wait=False, cancel_futures=True)
                self.close()
                raise

    def _answered(self, task: str, options: dict[str, Any], records: list[Record]) -> list[Answer]:
        member = self.idle.get()
        try:
            values, reason = member.ask([task, options, records])
        finally:
            self.idle.put(member)
        if not reason:
            return [Answer(record, value) for record, value in zip(records, values, strict=True)]
        if len(records) == 1:
            return [Answer(records[0], None, reason)]
        return list(chain.from_iterable(self._answered(task, options, [record]) for record in records))

    def close(self) -> None:
        for member in self.members:
            member.close()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Member:
    """One process, started at the first question and again after each that it did not survive."""

    def __init__(self, limit: float, program: str):
        self.command = [sys.executable, "-m", program, str(min(limit, 1e8))]  # what every system's timer holds
        self.process: subprocess.Popen | None = None
        self.closed, self.lock = False, Lock()

    def ask(self, question: list[Any]) -> tuple[list[Any], str]:
        """(answers, "") or ([], reason)."""
        process = self.process or self._start()
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it is gone
            line = ""
        if not line.endswith("\n"):
            self.process = None
            return [], TIMEOUT if _end(process) == TIMED_OUT else CRASH
        answer = json.loads(line)
        if isinstance(answer, list):
            return answer, ""
        if answer["error"].startswith(("ImportError:", "ModuleNotFoundError:")):
            raise CrewError(answer["error"].partition(": ")[2])  # no molecule's fault, and no zero
        return [], answer["error"]

    def _start(self) -> subprocess.Popen:
        paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment = {**os.environ, **dict.fromkeys(_THREADS, "1"), **paths}
        with self.lock:
            if self.closed:
                raise CrewError("the processes that look at molecules were stopped")
            # a session of its own: Ctrl-C, which a terminal sends to all, does not reach it; it ends with its input
            process = self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8",
                start_new_session=True,
            )  # fmt: skip
        if process.stdout.readline() != "ready\n":
            self.process, code = None, _end(process)
            raise CrewError(f"{' '.join(self.command)} does not start (exit status {code}); see the lines above")
        return process

    def close(self) -> None:
        with self.lock:
            self.closed = True
            # a thread that waits for its answer sees it end, and ends it too
            process, self.process = self.process, None
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen) -> int:
    """Its exit status, its own if it has ended already."""
    process.kill()
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError, ValueError):  # a question it did not read; a pipe that another thread reads
            pipe.close()
    return code
