"""What molecules are made of, beside a reference: quantities to plot, and features that are more or less frequent."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from types import MappingProxyType

from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, Mol, rdMolDescriptors

from moldiff.chem import quiet
from moldiff.metrics.rings import ring_systems

REFERENCE_SAMPLE = 5000  # molecules of the reference that are looked at
LEVEL = 0.05  # chance that a difference is listed although there is none, over all features together

QUANTITIES: dict[str, Callable[[Mol], float]] = {
    "Heavy atoms": Mol.GetNumHeavyAtoms,
    "Molecular weight (Da)": Descriptors.MolWt,
    "Rings": rdMolDescriptors.CalcNumRings,
    "Rotatable bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "sp³ share of the carbons": rdMolDescriptors.CalcFractionCSP3,
    "logP (Crippen)": Crippen.MolLogP,
    "TPSA (Å²)": rdMolDescriptors.CalcTPSA,
    "Heteroatoms per heavy atom": lambda mol: rdMolDescriptors.CalcNumHeteroatoms(mol) / mol.GetNumHeavyAtoms(),
}
GROUPS = {
    "alcohol": "[CX4;!$(C([OH])[O,N])][OH]", "phenol or enol": "[#6X3;!$(C=O)][OH]",
    "ether": "[#6;!$(C=O)][OX2;!r3][#6;!$(C=O)]", "epoxide": "C1CO1", "aziridine": "C1CN1",
    "acetal": "[OX2,NX3][CX4][OX2]", "aldehyde": "[CX3H1](=O)[#6,#1]", "ketone": "[#6][CX3](=O)[#6]",
    "carboxylic acid": "C(=O)[OH,O-]", "ester": "[#6]C(=O)O[#6]", "amide": "[#6,#1][CX3](=O)[NX3]",
    "carbamate or carbonate": "[O,N]C(=O)O[#6]", "urea": "NC(=O)N", "imide": "C(=O)NC(=O)",
    "primary amine": "[NX3H2;!$(N[C,S]=[O,N,S])][#6]", "secondary amine": "[NX3H1;!$(N[C,S]=[O,N,S])]([#6])[#6]",
    "tertiary amine": "[NX3H0;!$(N[C,S]=[O,N,S])]([#6])([#6])[#6]", "imine": "[CX3]=[NX2;!$(N[O,N])]",
    "amidine": "[NX3][CX3]=[NX2]", "oxime": "C=N[O]", "hydrazone": "C=N[NX3]", "nitrile": "C#N", "alkyne": "C#C",
    "alkene": "C=C", "N–N bond": "[#7]~[#7]", "N–O bond": "[#7]-[#8X2]", "O–O bond": "[OX2][OX2]", "nitro": "[N+](=O)[O-]",
    "thioether": "[#6][SX2][#6]", "thiol": "[#6][SH]", "sulfone": "[#6]S(=O)(=O)[#6]", "sulfonamide": "S(=O)(=O)N",
    "fluorine on carbon": "[#6]F", "chlorine on carbon": "[#6]Cl", "bromine on carbon": "[#6]Br",
    "iodine on carbon": "[#6]I", "formal charges": "[!+0]", "aromatic ring": "a",
}  # fmt: skip


@dataclass(frozen=True)
class Share:
    """How frequent a feature is in the file and in the reference: molecules that have it, of all."""

    kind: str  # element, group, ring size or ring system
    name: str
    here: float
    there: float | None
    differs: bool  # more than chance explains

    @property
    def ratio(self) -> float:
        """Here over there; infinite where the reference has none."""
        return self.here / self.there if self.there else math.inf


@dataclass(frozen=True)
class Composition:
    """Quantities of each molecule, and how many molecules have each (kind, name) of feature."""

    n: int
    quantities: dict[str, list[float]]
    features: Counter[tuple[str, str]]


def composition_of(smiles: Iterable[str]) -> Composition:
    """The composition of SMILES; those that RDKit cannot read, or without heavy atoms, do not count."""
    quantities: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    features: Counter[tuple[str, str]] = Counter()
    n = 0
    with quiet():
        for text in smiles:
            mol = Chem.MolFromSmiles(text)
            if mol is None or not mol.GetNumHeavyAtoms():
                continue
            n += 1
            features.update(_features(mol))
            for name, compute in QUANTITIES.items():
                quantities[name].append(float(compute(mol)))
    return Composition(n, quantities, features)


def sample(smiles: Sequence[str], size: int = REFERENCE_SAMPLE) -> list[str]:
    """``size`` SMILES, spread evenly over the sorted distinct ones: the same for any order of the collection."""
    distinct = sorted(set(smiles))
    return [distinct[k * len(distinct) // size] for k in range(size)] if len(distinct) > size else distinct


def shares(here: Composition, there: Composition | None) -> list[Share]:
    """All features of either side, the most frequent of the file first, marked where the two sides differ.

    Two-proportion z-test at ``LEVEL``, divided by the number of features (Bonferroni).
    """
    keys = set(here.features) | set(there.features if there else ())
    z = NormalDist().inv_cdf(1 - LEVEL / 2 / max(1, len(keys)))
    rows = []
    for kind, name in sorted(keys):
        a = here.features[kind, name]
        b = there.features[kind, name] if there else 0
        differs = there is not None and abs(_z_score(a, here.n, b, there.n)) > z
        rows.append(Share(kind, name, _over(a, here.n), _over(b, there.n) if there else None, differs))
    return sorted(rows, key=lambda row: (-row.here, -(row.there or 0), row.kind, row.name))


def _over(count: int, n: int) -> float:
    return count / n if n else 0.0


def _z_score(a: int, n: int, b: int, m: int) -> float:
    if not n or not m:
        return 0.0
    pooled = (a + b) / (n + m)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return (a / n - b / m) / spread if spread else 0.0


def _features(mol: Mol) -> set[tuple[str, str]]:
    found = {("element", atom.GetSymbol()) for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1}
    found |= {("group", name) for name, pattern in _patterns().items() if mol.HasSubstructMatch(pattern)}
    found |= {("ring size", f"{len(ring)}-membered ring") for ring in mol.GetRingInfo().AtomRings()}
    if rdMolDescriptors.CalcNumSpiroAtoms(mol):
        found.add(("group", "spiro atom"))
    if rdMolDescriptors.CalcNumBridgeheadAtoms(mol):
        found.add(("group", "bridged rings"))
    return found | {("ring system", text) for text in ring_systems(mol)}


@cache
def _patterns() -> MappingProxyType[str, Mol]:
    return MappingProxyType({name: Chem.MolFromSmarts(smarts) for name, smarts in GROUPS.items()})
