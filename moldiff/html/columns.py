"""How the columns of the table of molecules are called, ordered, written and explained on the page."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from moldiff.metrics.druglike import MEANINGS

SHOWN = 6  # columns that the page shows at first; the others wait in its list of columns
APART = {"record", "id", "smiles", "edm_smiles", "moses_smiles", "nearest"}  # have places of their own in each row


@dataclass(frozen=True)
class Known:
    """``label`` and unit or meaning (``help``) of a column; ``digits`` after the point; DOI of the method."""

    label: str
    help: str = ""
    digits: int = 2
    source: str = ""


# In the order of the page: first what decides about a molecule.
KNOWN = {
    "qed": Known("QED", MEANINGS["qed"], source="10.1038/nchem.1243"),
    "sa": Known("SA", MEANINGS["sa"], 1, "10.1186/1758-2946-1-8"),
    "strain": Known("Strain", "kcal/mol released by MMFF94s relaxation", 1),
    "alerts": Known("Alerts", "patterns of PAINS, Brenk and NIH that the molecule matches", source="10.1021/jm901137j"),
    "unseen_ring_system": Known("New rings", "ring systems that the reference does not hold"),
    "nearest_similarity": Known("Similarity", "Tanimoto similarity to the nearest molecule of the reference"),
    "logp": Known("logP", MEANINGS["logp"], source="10.1021/ci990307l"),
    "weight": Known("Weight", MEANINGS["weight"], 1),
    "tpsa": Known("TPSA", MEANINGS["tpsa"], 1, "10.1021/jm000942e"),
    "hbd": Known("HBD", MEANINGS["hbd"]),
    "hba": Known("HBA", MEANINGS["hba"]),
    "rotatable_bonds": Known("Rotatable", MEANINGS["rotatable_bonds"]),
    "rings": Known("Rings", MEANINGS["rings"]),
    "aromatic_rings": Known("Aromatic rings", MEANINGS["aromatic_rings"]),
    "largest_ring": Known("Largest ring", MEANINGS["largest_ring"]),
    "fsp3": Known("Fsp³", MEANINGS["fsp3"]),
    "lipinski_violations": Known("Lipinski", MEANINGS["lipinski_violations"], source="10.1016/S0169-409X(00)00129-0"),
    "veber": Known("Veber", MEANINGS["veber"], source="10.1021/jm020017n"),
    "posebusters": Known("PoseBusters", "passes all checks of geometry", source="10.1039/D3SC04185A"),
    "strain_rmsd": Known("RMSD", "Å that the atoms move in the relaxation"),
    "pains": Known("PAINS", MEANINGS["pains"]),
    "brenk": Known("Brenk", MEANINGS["brenk"], source="10.1002/cmdc.200700139"),
    "nih": Known("NIH", MEANINGS["nih"], source="10.1021/jm901070c"),
    "ring_systems": Known("Ring systems"),
    "valid": Known("Valid", "RDKit sanitises it as written"),
    "fragments": Known("Fragments", "unconnected pieces"),
    "radicals": Known("Radicals", "unpaired electrons and open valences"),
    "charge": Known("Charge", "net charge, e"),
    "failure": Known("Why not valid"),
    "reason": Known("Why not read"),
    "atoms": Known("Atoms", "hydrogens included"),
    "stable_atoms": Known("Stable atoms", "strict valences"),
    "smiles_stereo": Known("SMILES with stereo"),
}
# Not shown at first: the similarity stands below the nearest compound, the others are for counting.
LATER = {
    "nearest_similarity", "readable", "coordinates", "valid", "fragments", "radicals", "charge", "failure", "atoms",
    "stable_atoms", "smiles_stereo", "ring_systems", "where", "reason",
}  # fmt: skip
LATER_PREFIXES = ("edm_", "midi_")


@dataclass(frozen=True)
class Column:
    """A column of the page; ``kind`` is number, flag or text."""

    key: str
    label: str
    help: str
    kind: str
    digits: int
    shown: bool
    values: list[Any]

    @property
    def facts(self) -> dict[str, Any]:
        """All but the values."""
        return {key: value for key, value in asdict(self).items() if key != "values"}


def columns(table: pd.DataFrame) -> list[Column]:
    """All columns but those with places of their own, known ones first; columns without any value are left out."""
    keys = [key for key in KNOWN if key in table] + [key for key in table if key not in KNOWN]
    found, shown = [], 0
    for key in keys:
        values, kind = _plain(table[key])
        if key in APART or all(value in (None, "") for value in values):
            continue
        known = KNOWN.get(key, Known(str(key).replace("_", " ")))
        show = shown < SHOWN and key not in LATER and not str(key).startswith(LATER_PREFIXES)
        shown += show
        digits = 0 if _whole(values) else known.digits
        found.append(Column(str(key), known.label, known.help, kind, digits, show, values))
    return found


def _plain(series: pd.Series) -> tuple[list[Any], str]:
    """Values that JSON holds, None for what is missing, and their kind."""
    values = [_value(v) for v in series]
    present = [v for v in values if v is not None]
    if present and all(isinstance(v, bool) for v in present):
        return values, "flag"
    if all(isinstance(v, int | float) for v in present):
        return values, "number"
    return [None if v is None else str(v) for v in values], "text"


def _value(value: Any) -> Any:
    if pd.isna(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) != float("inf") else None
    return value if isinstance(value, bool | int) else str(value)


def _whole(values: Iterable[Any]) -> bool:
    return all(
        value is None or isinstance(value, int) or (isinstance(value, float) and value.is_integer()) for value in values
    )
