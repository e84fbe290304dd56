"""The weights that ship with the package, by name."""

import json
from pathlib import Path
from typing import Any

from moldiff.errors import RequestError

# The best set shipped for each kind of data; qm9-atoms makes hydrogens as atoms of their own, the others leave them to valence.
ALIASES = {"qm9": "qm9-deep", "qm9-atoms": "qm9-tiny", "leads": "leads-deep"}

FIGURES = Path(__file__).parent / "figures.json"  # made by scripts/ship_figures.py


def measured(sha256: str) -> list[dict[str, Any]]:
    """Key figures of all sampled molecules that weights of this hash were measured to give, a row for each number of evaluations;
    rules and more are in the model cards."""
    return json.loads(FIGURES.read_text()).get(sha256, [])


def shipped_models() -> dict[str, Path]:
    """Names of the weights inside the package, aliases included."""
    found = {p.stem: p for p in sorted(Path(__file__).parent.glob("*.safetensors"))}
    return found | {alias: found[name] for alias, name in ALIASES.items() if name in found}


def shipped_helpers(folder: str) -> list[Path]:
    """The weights inside the package that help others: ``predictors`` of properties, placers of ``hydrogens``, and those that
    a generator leaves ``fast`` walks to."""
    return sorted(Path(__file__).parent.glob(f"{folder}/*.safetensors"))


def find_weights(model: str | Path) -> Path:
    """The file of a shipped model's name, or the file itself. Raises RequestError if there is neither."""
    shipped = shipped_models()
    path = shipped.get(str(model), Path(model))
    if not path.is_file():
        there = f"shipped are {', '.join(shipped)}" if shipped else "none is shipped with this version"
        raise RequestError(f"--model {model}: neither a file nor a shipped model; {there}")
    return path
