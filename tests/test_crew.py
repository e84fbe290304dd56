"""Work in processes: order, limits, what becomes of a record that hangs or kills its process."""

import signal
import sys

import pytest

from moldiff.crew import CRASH, TIMEOUT, Crew, CrewError
from moldiff.datasets.records import Record

PROGRAM = '''
"""Speaks as moldiff.record_work does, and imports nothing that takes time; a record says what is to happen to it."""
import json, os, signal, sys
print("ready", flush=True)
for line in sys.stdin:
    task, options, records = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
    answers = []
    for record in records:
        while record[4] == "hang":
            signal.pause()
        if record[4] == "die":
            os._exit(9)
        answers.append([task, record[4], os.getpid()])
    if any(record[4] == "wrong" for record in records):
        answers = {"error": "ValueError: no such thing"}
    if any(record[4] == "lacking" for record in records):
        answers = {"error": "ImportError: needs a library; pip install it"}
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(json.dumps(answers), flush=True)
'''


@pytest.fixture
def crew(tmp_path, monkeypatch):
    (tmp_path / "stand_in.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(str(tmp_path))
    crews = []

    def make(count: int, limit: float = 20.0) -> Crew:
        crews.append(Crew(count, limit, "stand_in"))
        return crews[-1]

    yield make
    for each in crews:
        each.close()


def records(*texts: str) -> list[Record]:
    return [Record(number, "", "", "smiles", text) for number, text in enumerate(texts, 1)]


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 100), (3, 2)])
def test_answers_come_in_the_order_of_the_records(crew, count, size):
    texts = [str(k) for k in range(25)]
    answers = list(crew(count).map("ask", records(*texts), size))
    assert [a.record.text for a in answers] == [a.value[1] for a in answers] == texts
    assert {a.reason for a in answers} == {""}


def test_no_more_records_are_in_memory_than_in_work(crew):
    taken = []

    def stream():
        for record in records(*map(str, range(100))):
            taken.append(record)
            yield record

    answers = crew(2).map("ask", stream(), 2)
    next(answers)
    assert len(taken) <= 12


def test_a_record_that_hangs_or_kills_its_process_is_named_and_takes_no_other_with_it(crew):
    answers = list(crew(1, limit=2.0).map("ask", records("a", "hang", "b", "die", "c"), 5))
    assert [a.reason for a in answers] == ["", TIMEOUT, "", CRASH, ""]
    assert [a.value and a.value[1] for a in answers] == ["a", None, "b", None, "c"]


def test_an_exception_is_the_reason_of_its_record_alone(crew):
    answers = list(crew(1).map("ask", records("a", "wrong", "b"), 3))
    assert [a.reason for a in answers] == ["", "ValueError: no such thing", ""]


def test_a_library_that_cannot_be_imported_is_an_error_and_no_failure_of_molecules(crew):
    with pytest.raises(CrewError, match="needs a library; pip install it"):
        list(crew(2).map("ask", records("a", "lacking", "b"), 1))


def test_a_caller_who_stops_listening_leaves_no_process_behind(crew):
    made = crew(2)
    answers = made.map("ask", records(*map(str, range(50))), 1)
    next(answers)
    answers.close()
    assert [judge.process for judge in made.members] == [None, None]


def test_a_program_that_does_not_start_is_an_error(tmp_path):
    with Crew(1, 1.0, "no_such_module_anywhere") as made, pytest.raises(CrewError, match="does not start"):
        list(made.map("ask", records("a"), 1))


def test_nothing_is_started_before_there_is_work(crew):
    made = crew(2)
    assert list(made.map("ask", [], 5)) == []
    assert [judge.process for judge in made.members] == [None, None]
    assert sys.executable in made.members[0].command


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signals")
def test_the_limit_holds_where_the_caller_has_blocked_its_signal():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    try:
        with Crew(1, 1e-6) as made:
            assert [a.reason for a in made.map("known", records("C" * 50), 1)] == [TIMEOUT]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
