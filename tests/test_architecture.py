"""The shape of the package, read from its syntax trees: imports point one way, heavy libraries stay in their places."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "moldiff"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports from rows above its own, and within its row as long as there is no circle.
ORDER = [
    {"errors", "config", "molecule", "schedules", "files", "checkpoints", "weights", "citations", "workers", "filters"}
    | {"composition", "valences"},
    {"arguments", "conditions", "processes", "chem", "force_field", "graph_counts", "stereo", "tasks", "known"},
    {
        "denoisers",
        "datasets",
        "metrics",
        "fragment_checks",
        "samplers",
        "guidance",
        "overlay_guides",
        "crew",
        "record_work",
        "screening",
        "diversity",
    },
    {"references", "report", "exclusion"},
    {"model_file", "alternatives"},
    {"model", "predictor", "hydrogens"},
    {"relay"},
    {
        "batches",
        "muon",
        "training_state",
        "finetuning",
        "training",
        "one_size",
        "formula",
        "draws",
        "told",
        "attempts",
        "outcomes",
        "acceptance",
        "windows",
        "distillation",
        "predictions",
        "fragments",
        "given_files",
        "fragment_files",
        "overlay",
        "requests",
        "generation",
        "completion",
        "conformers",
        "perception",
    },
    {"formats", "journal", "outputs", "doctor", "terminal", "html"},
    {"cli", "__init__"},
]
PLACES = {
    "rdkit": {
        "chem",
        "force_field",
        "graph_counts",
        "stereo",
        "conformers",
        "perception",
        "metrics",
        "report",
        "record_work",
        "datasets",
        "html",
        "screening",
        "diversity",
        "overlay",
        "fragments",
        "given_files",
        "fragment_files",
        "fragment_checks",
        "predictions",
        "formula",
    },
    "e3nn": {"denoisers.tensor_product"},
    "torch_geometric": {"molecule", "denoisers.egnn"},
    "pandas": {"metrics", "report", "html"},
    "typer": {"cli"},
    "fcd_torch": {"metrics.chemnet"},
    "posebusters": {"metrics.plausibility"},
    "tblite": {"metrics.xtb"},
    "ase": {"metrics.xtb"},
    "pyscf": {"metrics.dft"},
}
FORBIDDEN_MODULES = {"pickle", "dill", "joblib", "shelve", "marshal", "random"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "torch.save", "np.random.seed"}


def name_of(path: Path) -> str:
    """E.g. ``denoisers.egnn``; a package is named without its ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


@cache
def tree(path: Path) -> ast.Module:
    """Without what only type checkers see."""

    class Drop(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            self.generic_visit(node)
            return node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else node

    return Drop().visit(ast.parse(path.read_text(), str(path)))


def imports(path: Path, at_import_time: bool = False) -> Iterator[str]:
    """Dotted names of all imported modules; ``at_import_time``: not those inside functions."""
    nodes = list(ast.walk(tree(path)))
    if at_import_time:
        functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
        inside = {id(n) for f in functions for n in ast.walk(f) if n is not f}
        nodes = [n for n in nodes if id(n) not in inside]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module in INTERNAL:
                yield from (f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in INTERNAL)


INTERNAL = {"moldiff"} | {f"moldiff.{name_of(path)}" for path in FILES}


def internal(path: Path, at_import_time: bool = False) -> set[str]:
    """Names, without ``moldiff.``, of the modules of this package that a file imports."""
    found = {name.removeprefix("moldiff.") for name in imports(path, at_import_time) if name.startswith("moldiff.")}
    return found - {name_of(path)}


def row_of(name: str) -> int:
    rows = [k for k, row in enumerate(ORDER) if name.split(".")[0] in row]
    assert rows, f"moldiff/{name} has no place in ORDER: give it one"
    return rows[0]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_one_way(path):
    above = [name for name in internal(path) if row_of(name) > row_of(name_of(path))]
    assert not above, f"{name_of(path)} imports {above}, which stand above it in ORDER"


def test_there_is_no_circle():
    graph = {name_of(path): internal(path, at_import_time=True) for path in FILES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_libraries_stay_in_their_places(path):
    for library in {name.split(".")[0] for name in imports(path)} & set(PLACES):
        assert within(name_of(path), PLACES[library]), f"{library} does not belong in {name_of(path)}"


@pytest.mark.parametrize(
    ("start", "absent"),
    [
        ("training", {"rdkit", "pandas", "e3nn", "torch_geometric", "typer"}),  # a machine with torch alone can train
        ("cli", {"torch", "numpy", "rdkit", "pandas", "e3nn", "torch_geometric"}),  # --help answers at once
        ("__init__", {"torch", "numpy", "rdkit", "pandas", "e3nn", "torch_geometric"}),
    ],
)
def test_heavy_libraries_are_loaded_late(start, absent):
    """Follow everything that is imported as soon as a module is."""
    paths = {name_of(path): path for path in FILES}
    seen, left = set(), [start]
    while left:
        name = left.pop()
        seen.add(name)
        parents = {name.rpartition(".")[0]} & set(paths)
        left += (internal(paths[name], at_import_time=True) | parents) - seen
    loaded = {library.split(".")[0]: name for name in seen for library in imports(paths[name], at_import_time=True)}
    assert not {k: v for k, v in loaded.items() if k in absent}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_forbidden(path):
    assert path.name not in {"utils.py", "helpers.py", "misc.py", "common.py"}
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN_MODULES
    nodes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    calls = {ast.unparse(node.func) for node in nodes}
    assert not calls & FORBIDDEN_CALLS
    loads = [ast.unparse(node) for node in nodes if ast.unparse(node.func) == "torch.load"]
    assert all("weights_only=True" in call for call in loads), "else torch.load runs whatever a pickle says"
    if name_of(path) != "training":  # initial weights
        assert not calls & {"torch.manual_seed", "torch.seed"}
