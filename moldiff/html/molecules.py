"""The molecules of a report as one compressed text: columns, drawings, mol blocks, nearest known compounds."""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rdkit.Chem import Mol

from moldiff.html.columns import columns
from moldiff.html.drawing import draw, draw_smiles, mol_block
from moldiff.html.stages import passed

MAX_MOLECULES = 10_000  # drawn and listed; the metrics count all
MODEL_FIELDS = ("model", "model_sha256")  # data fields of a record that moldiff wrote


@dataclass(frozen=True)
class Review:
    """``content`` for the page's script, and the (model, sha256) that each record names, empty where it names none."""

    content: dict[str, Any]
    named: list[tuple[str, str]]


def review(table: pd.DataFrame, mols: Sequence[Mol | None], protocols: Sequence[str]) -> Review:
    """What the page shows of each molecule; ``mols`` in the order of the ``table``, one for each row."""
    table = table.head(MAX_MOLECULES)
    counted, found, named = passed(table, protocols), columns(table), []
    smiles = _plain(counted.smiles)
    nearest = _plain(table["nearest"]) if "nearest" in table else [None] * len(table)
    known = sorted({text for text in nearest if text})
    content: dict[str, Any] = {
        "columns": [column.facts for column in found], "values": [column.values for column in found],
        "record": [int(number) for number in table["record"]], "id": _plain(table["id"]), "smiles": smiles,
        "whole": counted.whole.tolist(), "nearest": nearest, "known": {text: draw_smiles(text) for text in known},
        "drawing": [], "block": [], "spatial": [],
    }  # fmt: skip
    for row, (name, text, readable) in enumerate(zip(content["id"], smiles, table["readable"], strict=True)):
        mol = mols[row] if readable else None  # what took too long to judge is not tried again
        drawable = mol is not None and (mol.GetNumBonds() or mol.GetNumAtoms() == 1)
        content["drawing"].append(draw(mol) if drawable or not text else draw_smiles(text))
        content["block"].append(None if mol is None else mol_block(mol, name or ""))
        content["spatial"].append(mol is not None and mol.GetNumConformers() > 0 and mol.GetConformer().Is3D())
        named.append(tuple(mol.GetProp(key) if mol and mol.HasProp(key) else "" for key in MODEL_FIELDS))
    return Review(content, named)


def packed(content: dict[str, Any]) -> str:
    """Base64 of the deflated JSON."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _plain(series: pd.Series) -> list[str | None]:
    return [None if pd.isna(value) else str(value) for value in series]
