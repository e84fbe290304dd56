"""The scripts answer for themselves, take what the documents give them, and see what they measure."""

import csv
import dataclasses
import itertools
import json
import re
import runpy
import subprocess
import sys

import pytest
from rdkit import Chem
from test_readme import DOCUMENTS, ROOT

from moldiff import relay, weights
from moldiff.checkpoints import latest_checkpoint
from moldiff.generation import load
from moldiff.model import Model

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py") if path.name != "rows.py")  # a module of theirs


def run(monkeypatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setenv("COLUMNS", "300")  # no option is cut off
    code = None
    try:
        runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
    except SystemExit as end:
        code = end.code
    assert not code


def documented() -> set[tuple[str, str]]:
    """(script, option) of every command in the documents and in the scripts' own texts."""
    texts = [(ROOT / name).read_text() for name in (*DOCUMENTS, *(f"scripts/{name}" for name in SCRIPTS))]
    found = set()
    for command in re.findall(r"python scripts/(\w+\.py[^\n`]*)", "\n".join(texts)):
        name, *words = re.split(r" (?:&&|\||;|#)", command)[0].split()
        found |= {(name, word) for word in words if word.startswith("--")}
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_tells_every_documented_option(monkeypatch, capsys, name):
    run(monkeypatch, name, "--help")
    shown = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert "--help" in shown or "-h" in shown
    assert {option for script, option in documented() if script == name} <= shown


def test_documents_name_scripts_that_exist():
    assert {script for script, _ in documented()} <= set(SCRIPTS)
    assert ("sweep_sampler.py", "--steps") in documented()


def test_a_sweep_adds_the_rows_that_are_missing(monkeypatch, tmp_path, trained):
    output = tmp_path / "sweep.csv"
    fixed = [str(trained), "-o", str(output), "-n", "12", "--strain", "2"]
    run(monkeypatch, "sweep_sampler.py", *fixed, "--steps", "6")
    first = output.read_text()
    run(monkeypatch, "sweep_sampler.py", *fixed, "--steps", "6", "8")
    assert output.read_text().startswith(first)
    rows = list(csv.DictReader(output.open()))
    assert [row["steps"] for row in rows] == ["6", "8"]
    assert all(0 < float(row["accepted"]) <= float(row["valid_connected"]) for row in rows)


def test_a_sweep_sees_the_hydrogens_of_lead_like_molecules(monkeypatch, tmp_path):
    output = tmp_path / "sweep.csv"
    run(monkeypatch, "sweep_sampler.py", "leads", "-o", str(output), "-n", "2", "--strain", "1", "--steps", "30")
    assert float(next(csv.DictReader(output.open()))["accepted"]) > 0


def test_parts_are_laid_apart_and_grow_where_they_are_mapped(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    part, attach = runpy.run_path(str(ROOT / "scripts/evaluate_parts.py"))["mapped"]("C[CH2:3]O.[OH2:1].N")
    assert Chem.MolToSmiles(Chem.RemoveHs(part)) == "CCO.N.O"
    assert [part.GetAtomWithIdx(k).GetSymbol() for k in attach] == ["C", "O"]
    pieces = Chem.GetMolFrags(part)
    heavy = [[k for k in piece if part.GetAtomWithIdx(k).GetAtomicNum() > 1] for piece in pieces]
    positions = part.GetConformer().GetPositions()
    for one, other in itertools.pairwise(heavy):
        assert positions[other, 0].min() - positions[one, 0].max() == pytest.approx(4.5)


def test_the_attempts_at_parts_and_analogues_add_up(monkeypatch, tmp_path, trained):
    output = tmp_path / "rows.json"
    fixed = ["--model", str(trained), "-n", "6", "--quality", "fast", "--json", str(output)]
    run(monkeypatch, "evaluate_parts.py", "parts", *fixed, "--part", "C")
    row = json.loads(output.read_text())["rows"][0]
    rejected = sum(int(text.split()[-1]) for text in row["rejected"].split(", ") if text)
    assert round(row["accepted %"] * 6 / 100) + rejected == 6
    run(monkeypatch, "evaluate_parts.py", "analogues", *fixed, "--seed-smiles", "CO", "--strength", "0.2")
    assert json.loads(output.read_text())["rows"][0]["attempts"] == 6


def test_a_pupil_is_distilled_and_makes_molecules(monkeypatch, tmp_path, trained):
    teacher = Model.load(trained)
    quality = dataclasses.replace(teacher.config.quality, fast=6)
    teacher.config = dataclasses.replace(teacher.config, quality=quality)
    teacher.save(tmp_path / "four.safetensors")
    for module in (weights, relay):
        monkeypatch.setattr(module, "shipped_models", lambda: {"four": tmp_path / "four.safetensors"})
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # in the process that walks, too: compiling would take a minute
    run(monkeypatch, "distill.py", "four", "-o", str(tmp_path / "run"), "--walks", "30", "--batch", "32")
    (row,) = map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines())
    assert row["walks"] == 30 and row["step"] == 2 * 30 * 4 // 32 and row["total"] > 0
    pupil = load(tmp_path / "run/weights.safetensors")
    assert pupil.model.sha256 != teacher.sha256 and pupil.model.teacher.sha256 == teacher.sha256
    (record,) = pupil.generate(1)
    assert pupil.facts()["evaluations"] == {"fast": 6, "balanced": 6, "best": 6} and record.mol.GetNumAtoms() > 2


def test_a_training_in_pieces_goes_on_and_ends(tmp_path):
    """The first piece stops in time; the second goes on from its checkpoint, with the rate falling to zero.

    Each is a process of its own, from whose start its minutes count.
    """
    folder = tmp_path / "run"
    piece = [
        sys.executable,
        str(ROOT / "scripts" / "train_gpu.py"),
        "piece",
        str(ROOT / "data" / "qm9_sample"),
        str(folder),
    ]
    piece += ["--preset", "qm9-tiny", "--device", "cpu", "--set", "train.batch=4", "train.warmup=2"]
    piece += ["--set", "network.options.layers=1", "train.precision=float32"]

    def reached(after: int, *more: str) -> int:
        """The step at the end of the first piece that is long enough for a step on this machine."""
        for minutes in ("0.2", "0.5", "2"):
            subprocess.run([*piece, "--minutes", minutes, *more], check=True, capture_output=True, timeout=300)
            if (step := int(latest_checkpoint(folder).name.rpartition("-")[2])) > after:
                return step
        raise AssertionError("no step in two minutes")

    stopped = reached(0)
    assert reached(stopped, "--finish") > stopped
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows}) and rows[-1]["step"] > stopped
    assert next(load(folder / "weights.safetensors").generate(1, steps=12, rejects=True)).mol.GetNumAtoms()
    assert max(file.stat().st_size for file in folder.rglob("*.safetensors")) < 16 * 2**20


def test_figures_ship_beside_the_weights(monkeypatch, tmp_path, trained):
    """Rows of other numbers of evaluations stay; those of weights that no longer ship go."""
    told, report = tmp_path / "figures.json", tmp_path / "report.json"
    sha256 = Model.load(trained).sha256
    told.write_text(json.dumps({"gone": [{"evaluations": 8}], sha256: [{"evaluations": 30, "fcd": 3.0}]}))
    report.write_text(json.dumps({"records": 7, "metrics": {"fcd": {"value": 1.23456}, "other": {"value": 0.0}}}))
    other, moses = tmp_path / "other.json", tmp_path / "moses.json"
    other.write_text(json.dumps({"records": 9, "metrics": {"fcd": {"value": 1.0}}}))
    moses.write_text(json.dumps({"records": 5, "metrics": {"snn": {"value": 0.5}}}))
    monkeypatch.setattr(weights, "FIGURES", told)
    monkeypatch.setattr(weights, "shipped_models", lambda: {"four": trained})
    monkeypatch.setattr(weights, "shipped_helpers", lambda folder: [])
    run(monkeypatch, "ship_figures.py", trained.stem, f"8={report},{other}", f"8={moses},{moses}")
    row = {"evaluations": 8, "runs": 2, "sampled": 16, "fcd": 1.1173, "snn": 0.5}
    rows = [row, {"evaluations": 30, "fcd": 3.0}]
    assert json.loads(told.read_text()) == {sha256: rows}
    assert weights.measured(sha256) == rows and weights.measured("gone") == []
