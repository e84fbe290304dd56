"""Which attempts are sampled next."""

import pytest

from moldiff import windows
from moldiff.outcomes import Tally
from moldiff.requests import Request
from moldiff.windows import Windows


def taken(accepted: float, n: int, workers: int, **limits) -> list[range]:
    """Windows of a run whose attempts are accepted at the given rate, with so many under way at a time."""
    tally, found, under_way = Tally(), [], []
    plan = Windows(Request(n, **limits), tally, workers, 128)
    while tally.kept < n:
        while len(under_way) < (2 * workers if workers > 1 else 1) and (window := plan.next()):
            under_way.append(window)
        if not under_way:
            break
        found.append(under_way.pop(0))
        tally.sampled = found[-1].stop - plan.request.first
        tally.kept = int(accepted * tally.sampled)
    return found


@pytest.mark.parametrize("accepted", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("n", [1, 10, 700])
def test_they_follow_each_other_and_waste_little(accepted, workers, n):
    found = taken(accepted, n, workers, max_attempts=10**6)
    assert [w.start for w in found[1:]] == [w.stop for w in found[:-1]]
    assert found[0].start == 0
    assert found[-1].stop < 1.15 * n / accepted + 10 * workers
    assert max(map(len, found)) <= 128


def test_attempts_are_limited():
    assert taken(0.01, 50, 2, max_attempts=333)[-1].stop == 333


def test_they_may_begin_later():
    found = taken(0.5, 50, 2, first=7000, max_attempts=90)
    assert (found[0].start, found[-1].stop) == (7000, 7090)


def test_time_is_limited(monkeypatch):
    """At ten attempts a second, a limit of 20 s is nearly used and not exceeded; nothing that was sampled is lost."""
    now = [100.0]
    monkeypatch.setattr(windows.time, "monotonic", lambda: now[0])
    tally = Tally()
    plan = Windows(Request(10**6, time_limit=20.0), tally, 1, 128)
    while window := plan.next():
        now[0] += len(window) / 10
        tally.sampled = window.stop
        tally.kept = window.stop
    assert 115 < now[0] <= 120
    assert tally.sampled == pytest.approx(10 * (now[0] - 100))
