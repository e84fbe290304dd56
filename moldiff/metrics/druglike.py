"""Drug-likeness of single molecules: properties, rules of thumb, structural alerts, ring systems.

All are computed on a copy without explicit hydrogens and without stereo, so that they depend on the graph alone.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pandas as pd
from rdkit import RDConfig
from rdkit.Chem import QED, Crippen, Descriptors, Mol, rdMolDescriptors

from moldiff.chem import bare, sanitised
from moldiff.errors import MoldiffError
from moldiff.graph_counts import GRAPH_COUNTS
from moldiff.metrics.alerts import CATALOGUES, alerts
from moldiff.metrics.core import Metric, rate
from moldiff.metrics.rings import ring_systems, unseen

# pandas types of the columns; the nullable ones hold counts that are missing where a molecule is not valid
DRUGLIKE_COLUMNS = {
    "qed": "float64", "sa": "float64", "logp": "float64", "weight": "float64", "tpsa": "float64", "fsp3": "float64",
    "hbd": "Int64", "hba": "Int64", "rotatable_bonds": "Int64", "lipinski_violations": "Int64", "veber": "boolean",
    "rings": "Int64", "aromatic_rings": "Int64", "largest_ring": "Int64", "pains": "Int64", "brenk": "Int64",
    "nih": "Int64", "alerts": "object", "ring_systems": "object",
}  # fmt: skip
# what their numbers mean, as lists of them and pages say it
MEANINGS = {
    "qed": "quantitative estimate of drug-likeness, 0 to 1; higher is better",
    "sa": "synthetic accessibility, 1 (easy) to 10 (hard)",
    "logp": "octanol/water partition, Crippen",
    "weight": "g/mol",
    "tpsa": "topological polar surface area, Å²",
    "fsp3": "share of sp³ carbons, 0 to 1",
    "hbd": "hydrogen-bond donors",
    "hba": "hydrogen-bond acceptors",
    "rotatable_bonds": "rotatable bonds",
    "lipinski_violations": "rules of five broken, of four",
    "veber": "at most 10 rotatable bonds and 140 Å² of TPSA",
    "rings": "rings, as RDKit finds them",
    "aromatic_rings": "rings that are aromatic",
    "largest_ring": "atoms of the largest ring, 0 without rings",
    "pains": "number of PAINS alerts",
    "brenk": "number of Brenk alerts",
    "nih": "number of NIH alerts",
}


def druglike_facts(mol: Mol | None) -> dict[str, float | int | bool | str | None]:
    """Drug-likeness of one molecule, None in every column where RDKit does not sanitise it as given.

    Hydrogens must be atoms, as they are in all that moldiff writes: none is implied (``Chem.AddHs`` before, of a SMILES).

    qed (10.1038/nchem.1243), sa (synthetic accessibility, 1 easy to 10, 10.1186/1758-2946-1-8), logp (Crippen,
    10.1021/ci990307l), weight (g/mol), tpsa (Å², 10.1021/jm000942e), fsp3 (share of sp3 carbons), hbd and hba
    (hydrogen-bond donors and acceptors), rotatable_bonds, lipinski_violations (of four, 10.1016/S0169-409X(00)00129-0),
    veber (passes, 10.1021/jm020017n); rings (RDKit's symmetrised smallest set), aromatic_rings (of these, with aromatic
    bonds only) and largest_ring (atoms of the largest of these); pains, brenk, nih (numbers of alerts) and alerts (their
    names, "PAINS: …; …"); ring_systems (SMILES, as one SMILES with dots, "" for none).
    Raises :class:`MoldiffError` if RDKit comes without its synthetic-accessibility score.
    """
    copy = None if mol is None else graph(mol)
    if copy is None:
        return dict.fromkeys(DRUGLIKE_COLUMNS)
    found = alerts(copy)
    named = "; ".join(f"{name}: {alert}" for name, matched in found.items() for alert in matched)
    counts = {name.lower(): len(found[name]) for name in CATALOGUES}
    rings = ".".join(ring_systems(copy))
    return properties(copy) | rules(copy) | counts | {"alerts": named, "ring_systems": rings}


def graph(mol: Mol) -> Mol | None:
    """A sanitised copy without explicit hydrogens, stereo and coordinates; None where RDKit does not sanitise."""
    copy, _ = sanitised(mol)
    if copy is None:
        return None
    copy.RemoveAllConformers()
    return bare(copy)


def properties(mol: Mol) -> dict[str, float]:
    """The properties whose distributions MOSES compares: qed, sa, logp and weight of a sanitised graph."""
    return {"qed": QED.qed(mol), "sa": _sa_score()(mol), "logp": Crippen.MolLogP(mol),
            "weight": Descriptors.MolWt(mol)}  # fmt: skip


def ring_novelty(table: pd.DataFrame, known: set[str], name: str) -> Metric:
    """Molecules with a ring system that never occurs in the reference ``name``; its ``table`` names those systems.

    ``table``: the facts of the molecules; ``known``: the ring systems of the reference.
    """
    valid = table["ring_systems"].dropna()
    new = valid.map(lambda systems: ".".join(unseen(systems.split(".") if systems else (), known)))
    definition = (
        f"valid molecules with a ring system (rings that share atoms, with the atoms double-bonded to them, without "
        f"stereo) that is none of the {len(known)} in the reference {name}, of the valid"
    )
    return rate("unseen_ring_system", (new != "").sum(), len(valid), definition, new.reindex(table.index))


def rules(mol: Mol) -> dict[str, float | int | bool]:
    """What rules of thumb count, and the rules of Lipinski and Veber, of a sanitised graph."""
    rotatable, tpsa = rdMolDescriptors.CalcNumRotatableBonds(mol), rdMolDescriptors.CalcTPSA(mol)
    broken = [
        Descriptors.MolWt(mol) > 500,
        Crippen.MolLogP(mol) > 5,
        rdMolDescriptors.CalcNumLipinskiHBD(mol) > 5,
        rdMolDescriptors.CalcNumLipinskiHBA(mol) > 10,
    ]
    return {
        "tpsa": tpsa,
        "fsp3": rdMolDescriptors.CalcFractionCSP3(mol),
        **{name: count(mol) for name, count in GRAPH_COUNTS.items()},
        "rotatable_bonds": rotatable,
        "lipinski_violations": sum(broken),
        "veber": rotatable <= 10 and tpsa <= 140,
    }


@cache
def _sa_score() -> Callable[[Mol], float]:
    """RDKit ships the score among its contributions, outside its package."""
    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    try:
        spec = spec_from_file_location("rdkit_sascorer", path)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except (OSError, ImportError) as error:
        raise MoldiffError(f"synthetic accessibility: {path} cannot be loaded ({error}); pip install rdkit") from error
    return module.calculateScore
