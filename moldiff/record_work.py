"""What is found out about single records, in a process of its own; see :mod:`moldiff.crew`.

``python -m moldiff.record_work SECONDS`` reads ``[task, options, records]`` from standard input, one line each, and answers
``[a value for each record]`` or ``{"error": text}``. A question that takes longer ends the process.
"""

import base64
import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import Mol

from moldiff.chem import quiet, unmapped
from moldiff.datasets.records import Record
from moldiff.metrics.distributions import distribution_facts
from moldiff.metrics.druglike import druglike_facts
from moldiff.metrics.edm import edm_facts
from moldiff.metrics.fingerprints import fingerprint
from moldiff.metrics.moses import moses_facts
from moldiff.metrics.profiles import likeness, read_graph
from moldiff.metrics.valence import valence_facts
from moldiff.metrics.validity import validity_facts


def facts(records: Sequence[Record], parts: Sequence[str]) -> list[dict[str, Any]]:
    """For each record the row of the table, and what goes into the statistics of the set, by ``parts``.

    bonds (as written: validity and valences), druglike, edm, moses (SMILES as generated), likeness (what similarity to a
    reference needs), distributions.
    """
    return [_facts(record, parts) for record in records]


def _facts(record: Record, parts: Sequence[str]) -> dict[str, Any]:
    mol, reason = record.read()
    found: dict[str, Any] = {"row": row(mol, parts, record.text if record.kind == "smiles" else None), "reason": reason}
    if mol is not None:
        found["flat"] = mol.GetNumConformers() == 0 or not mol.GetConformer().Is3D()
        found["bare"] = mol.GetNumAtoms() > 0 and all(atom.GetAtomicNum() != 1 for atom in mol.GetAtoms())
    if "likeness" in parts:
        smiles = population_smiles(found["row"])
        found["likeness"] = None if smiles is None else likeness(smiles)
    if "distributions" in parts:
        found["distributions"] = distribution_facts(mol)
    return found


def row(mol: Mol | None, parts: Sequence[str], smiles: str | None = None) -> dict[str, Any]:
    """The facts of one molecule; of None, what is said of a record without a molecule. ``smiles``: as generated."""
    found: dict[str, Any] = {"readable": mol is not None, "coordinates": mol is not None and mol.GetNumConformers() > 0,
                             "atoms": 0 if mol is None else mol.GetNumAtoms()}  # fmt: skip
    if "bonds" in parts:
        found |= validity_facts(mol) | valence_facts(mol)
    if "edm" in parts:
        found |= edm_facts(mol)
    if "moses" in parts:
        found |= moses_facts(None if mol is None else smiles or found["smiles"])
    if "druglike" in parts:
        found |= druglike_facts(mol)
    return found


def population_smiles(row: dict[str, Any]) -> str | None:
    """The SMILES by which a molecule counts in comparisons with a reference: of the valid & connected ones.

    Under the protocol of MOSES: of all that RDKit reads.
    """
    if "moses_smiles" in row:
        return row["moses_smiles"]
    return row["smiles"] if row.get("valid") and row["fragments"] == 1 else None


def known(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For each record of a reference its canonical SMILES, None if there is none, and what it adds to distributions."""
    return [_known(record) for record in records]


def _known(record: Record) -> dict[str, Any]:
    if record.kind == "smiles":
        mol = None if record.reason else Chem.MolFromSmiles(record.text)
        return {"smiles": None if mol is None else Chem.MolToSmiles(unmapped(mol))}
    mol, _ = record.read()
    return {"smiles": validity_facts(mol)["smiles_stereo"], "distributions": distribution_facts(mol)}


def likenesses(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What each record, a canonical SMILES, adds to a profile."""
    return [likeness(record.text) for record in records]


def fingerprints(records: Sequence[Record]) -> list[str]:
    """The fingerprint, in base 64, of each record, a canonical SMILES."""
    return [base64.b64encode(fingerprint(read_graph(record.text))).decode() for record in records]


def activations(records: Sequence[Record]) -> list[str]:
    """ChemNet's activations for the SMILES of each record: base 64 of 32-bit numbers."""
    from moldiff.metrics.chemnet import chemnet_activations

    found = chemnet_activations([record.text for record in records]).astype(np.float32)
    return [base64.b64encode(values.tobytes()).decode() for values in found]


def apply(records: Sequence[Record], function: str, **options: Any) -> list[Any]:
    """What a function of moldiff.metrics, given as "module:name", returns for the molecule of each record."""
    module, name = function.split(":")
    called = getattr(import_module(f"moldiff.metrics.{module}"), name)
    return [called(record.read()[0], **options) for record in records]


TASKS = {"facts": facts, "known": known, "likenesses": likenesses, "fingerprints": fingerprints, "activations": activations,
         "apply": apply}  # fmt: skip


def main() -> None:
    import torch

    torch.set_num_threads(1)
    limit = float(sys.argv[1])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the caller may have had it ignored, or blocked
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    nowhere = os.open(os.devnull, os.O_WRONLY)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(nowhere, sys.stdout.fileno())  # what libraries print is no answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        task, options, records = json.loads(line)
        # no handler: the signal ends the process, even if RDKit never gives control back
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            with quiet():
                answer: Any = TASKS[task]([Record(*record) for record in records], **options)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer, default=_plain), file=answers, flush=True)


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item()


if __name__ == "__main__":
    main()
