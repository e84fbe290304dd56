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
        self.began, self.first, self.start = time.monotonic(), self.tally.next_index, self.tally.next_index

    def next(self) -> range:
        """The next range of attempts, empty when none is needed at the moment, or none is left, or time is up."""
        missing = math.ceil((self.request.n - self.tally.kept) / self.tally.acceptance)
        needed = missing - (self.start - self.tally.next_index)
        share = max(LEAST, math.ceil(needed / self.workers))
        size = min(share, self.most, self.request.attempts - self.start, self._in_time())
        window = range(self.start, self.start + max(0, size)) if needed > 0 else range(0)
        self.start += len(window)
        return window

    def _in_time(self) -> int:
        """Attempts that can be finished before the time limit, at the pace so far."""
        if self.request.time_limit is None:
            return self.most
        passed = time.monotonic() - self.began
        done = self.tally.next_index - self.first
        under_way = self.start - self.tally.next_index
        if not done:
            return LEAST if passed < self.request.time_limit and under_way < LEAST * self.workers else 0
        return int(done / passed * (self.request.time_limit - passed)) - under_way
