"""How many attempts are sampled at a time, while it shows how many of them are kept."""

import math
import time
from dataclasses import dataclass

from moldiff.outcomes import Tally
from moldiff.requests import Request

MOST = {"cpu": 128, "cuda": 4096, "mps": 1024}  # attempts sampled in one piece, by kind of device
LEAST = 8  # attempts worth a piece of their own


@dataclass
class Windows:
    """Which attempts to sample next: about what is missing and not under way yet, shared among the workers.

    Their sizes decide when molecules come, never which.
    """

    request: Request
    tally: Tally  # kept up to date by the caller
    workers: int
    most: int

    def __post_init__(self):
        self.began, self.before, self.planned = time.monotonic(), self.tally.sampled, self.tally.sampled

    def next(self) -> range:
        """The next range of attempts, empty when none is needed at the moment, or none is left, or time is up."""
        missing = math.ceil((self.request.n - self.tally.kept) / self.tally.acceptance)
        needed = missing - (self.planned - self.tally.sampled)
        share = max(LEAST, math.ceil(needed / self.workers))
        size = min(share, self.most, self.request.attempts - self.planned, self._in_time())
        start = self.request.first + self.planned
        window = range(start, start + max(0, size)) if needed > 0 else range(0)
        self.planned += len(window)
        return window

    def _in_time(self) -> int:
        """Attempts that can be finished before the time limit, at the pace so far."""
        if self.request.time_limit is None:
            return self.most
        passed = time.monotonic() - self.began
        done = self.tally.sampled - self.before
        under_way = self.planned - self.tally.sampled
        if not done:
            return LEAST if passed < self.request.time_limit and under_way < LEAST * self.workers else 0
        return int(done / passed * (self.request.time_limit - passed)) - under_way
