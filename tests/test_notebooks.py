"""The notebooks are well-formed and, with the weights that ship, run from the first cell to the last."""

import json
import re
from pathlib import Path

import pytest

from moldiff.weights import shipped_models

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[tuple[str, str]]:
    """(id, source) of the cells of a kind."""
    notebook = json.loads(path.read_text())
    return [(c["id"], "".join(c["source"])) for c in notebook["cells"] if c["cell_type"] == kind]


def test_there_are_notebooks():
    assert "01_first_molecules" in {path.stem for path in NOTEBOOKS}


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


@pytest.mark.skipif("qm9" not in shipped_models(), reason="no weights in the package")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for name, source in cells(path, "code"):
        exec(compile(source, f"{path.name}, cell {name}", "exec"), namespace)
