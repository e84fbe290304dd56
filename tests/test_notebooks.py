"""The notebooks are well-formed and, with the weights that ship, run from the first cell to the last."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

from moldiff.generation import load
from moldiff.requests import Request, choose_sampler
from moldiff.weights import shipped_models

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OPTIONAL = {"matplotlib"}  # with the extra "notebooks"
MAX_BYTES = 300_000  # of a notebook with its figures


def cells(path: Path, kind: str) -> list[tuple[str, str]]:
    """(id, source) of the cells of a kind."""
    notebook = json.loads(path.read_text())
    return [(c["id"], "".join(c["source"])) for c in notebook["cells"] if c["cell_type"] == kind]


def needed(path: Path) -> set[str]:
    """Top-level modules that the cells import."""
    trees = [ast.parse(source) for _, source in cells(path, "code")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {
        "01_first_molecules", "02_validity_and_novelty", "03_screening_pipeline",
    }  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_well_formed(path):
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(names) == len(set(names))
    assert notebook["cells"][0]["source"][0].startswith("# ")
    assert not re.search(r"(?<!\w)/(tmp|work|root|home|opt)/", path.read_text())
    for name, source in cells(path, "code"):
        compile(source, f"{path.name}, cell {name}", "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_small_and_sound(path):
    assert path.stat().st_size < MAX_BYTES
    outputs = [o for c in json.loads(path.read_text())["cells"] for o in c.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]


def test_stored_molecules_are_those_of_today():
    """Their IDs change with all that decides a molecule: weights, sampler, what is told."""
    text = (ROOT / "notebooks" / "01_first_molecules.ipynb").read_text()
    assert (
        load("qm9").id_prefix(Request(20, seed=1, sampler=choose_sampler(load("qm9").model.config, None, None))) in text
    )


@pytest.mark.skipif("qm9" not in shipped_models(), reason="no weights in the package")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    """In a copy of the folders that they know, where they may write."""
    for library in sorted(needed(path) & OPTIONAL):
        pytest.importorskip(library, reason=f"{path.name} needs {library}: pip install 'moldiff[notebooks]'")
    (tmp_path / "notebooks").mkdir()
    shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {"__name__": "__main__"}
    for name, source in cells(path, "code"):
        exec(compile(source, f"{path.name}, cell {name}", "exec"), namespace)
