"""How far the geometry and composition of a set of molecules are from a reference set.

Both sets count with the molecules RDKit sanitises; aromatic bonds are a type of their own, perceived by RDKit, so that
the choice of a Kekulé structure does not matter.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem import Mol

from moldiff.chem import quiet, sanitised
from moldiff.metrics.core import Metric

Path = tuple[int, ...]  # bonded atoms a-b, a-b-c or a-b-c-d
Values = dict[tuple[int, ...], np.ndarray]  # type of path (atomic numbers and bond types, alternating) -> values

_KINDS = {2: ("bond_length_w1", "bond lengths (Å)"), 3: ("bond_angle_w1", "bond angles (°)"),
          4: ("torsion_w1", "torsions (°, absolute, 0-180)")}  # fmt: skip
_BIN = {2: 0.002, 3: 0.2, 4: 1.0}  # Å, degrees, degrees: the widths of the histograms
_COMPOSITION = {"element_tv": "elements of atoms", "size_tv": "numbers of atoms of molecules",
                "ring_size_tv": "sizes of rings (RDKit's symmetrised smallest set)",
                "charge_tv": "formal charges of atoms"}  # fmt: skip
_BONDS = {1: "-", 2: "=", 3: "#", 12: ":"}  # RDKit's bond types in the names of types of path

Counts = dict[str, dict[str, int]]  # metric -> class -> number; "metric type" -> bin -> number


def distribution_metrics(mols: Iterable[Mol | None], reference: Iterable[Mol | None], name: str) -> list[Metric]:
    """Wasserstein-1 distances of geometry and total variations of composition from ``reference``, called ``name``."""
    return metrics_of_counts(*(count_all(distribution_facts(mol) for mol in side) for side in (mols, reference)), name)


def distribution_facts(mol: Mol | None) -> Counts:
    """What one molecule adds to the histograms; nothing if RDKit does not sanitise it."""
    with quiet():
        copy = None if mol is None else sanitised(mol)[0]
    if copy is None:
        return {}
    atoms = list(copy.GetAtoms())
    counts = {
        "element_tv": Counter(atom.GetSymbol() for atom in atoms), "size_tv": {str(len(atoms)): 1},
        "ring_size_tv": Counter(str(len(ring)) for ring in copy.GetRingInfo().AtomRings()),
        "charge_tv": Counter(str(atom.GetFormalCharge()) for atom in atoms),
    }  # fmt: skip
    for length, (metric, _) in _KINDS.items():
        for kind, values in internal_coordinates([copy], length).items():
            bins = (values[np.isfinite(values)] / _BIN[length]).astype(int).tolist()
            counts[f"{metric} {_type_name(kind)}"] = Counter(map(str, bins))
    return {key: dict(found) for key, found in counts.items() if found}


def count_all(parts: Iterable[Counts]) -> Counts:
    """The sum of the counts of molecules."""
    total: Counts = {}
    for part in parts:
        add_counts(total, part)
    return total


def add_counts(total: Counts, part: Counts) -> None:
    for key, found in part.items():
        counts = total.setdefault(key, {})
        for name, number in found.items():
            counts[name] = counts.get(name, 0) + number


def metrics_of_counts(ours: Counts, theirs: Counts, name: str) -> list[Metric]:
    """:func:`distribution_metrics` of two sets that were counted before; the geometry only if both have coordinates."""
    spatial = all(any(key.startswith(_KINDS[2][0]) for key in side) for side in (ours, theirs))
    return [_geometry_metric(k, ours, theirs, name) for k in _KINDS if spatial] + [
        _variation(metric, what, Counter(ours.get(metric, {})), Counter(theirs.get(metric, {})), name)
        for metric, what in _COMPOSITION.items()
    ]


def _type_name(kind: tuple[int, ...]) -> str:
    """E.g. C-C=O."""
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    return "".join(_BONDS.get(k, "~") if at % 2 else symbol(k) for at, k in enumerate(kind))


def internal_coordinates(mols: Iterable[Mol], length: int) -> Values:
    """Bond lengths (``length`` 2, Å), angles (3, degrees) or absolute torsions (4, degrees) by type.

    ``mols``: sanitised; those without a conformer have no coordinates and give nothing.
    """
    positions, paths, types, offset = [np.empty((0, 3))], [], [], 0
    for mol in mols:
        if mol.GetNumConformers():
            found = list(_typed_paths(mol, length))
            paths += [[i + offset for i in path] for path, _ in found]
            types += [kind for _, kind in found]
            positions.append(mol.GetConformer().GetPositions())
            offset += mol.GetNumAtoms()
    index = np.array(paths, dtype=int).reshape(-1, length)
    grouped = defaultdict(list)
    for kind, value in zip(types, _MEASURES[length](np.concatenate(positions)[index]).tolist(), strict=True):
        grouped[kind].append(value)
    return {kind: np.array(values) for kind, values in grouped.items()}


def wasserstein(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> float:
    """Wasserstein-1 distance of two samples: the area between their cumulative distributions."""
    a, b = np.sort(a), np.sort(b)
    grid = np.sort(np.concatenate([a, b]))
    gap = np.searchsorted(a, grid[:-1], "right") / len(a) - np.searchsorted(b, grid[:-1], "right") / len(b)
    return float((np.abs(gap) * np.diff(grid)).sum())


def total_variation(a: Counter, b: Counter) -> float:
    """Half the sum of absolute differences of two frequency tables: 0 equal, 1 disjoint; NaN if one is empty."""
    if not a or not b:
        return math.nan
    n, m = a.total(), b.total()
    return sum(abs(a[key] / n - b[key] / m) for key in a | b) / 2


def _geometry_metric(length: int, ours: Counts, theirs: Counts, reference: str) -> Metric:
    name, what = _KINDS[length]
    known = {key: sum(bins.values()) for key, bins in theirs.items() if key.startswith(f"{name} ")}
    shared = sorted(key for key in known if key in ours)
    covered = sum(known[key] for key in shared)
    value = sum(known[key] / covered * _BIN[length] * _histogram_distance(ours[key], theirs[key]) for key in shared)
    definition = (
        f"Wasserstein-1 distance of {what} from {reference}, per type (elements and bond types along the path), "
        f"averaged with the reference's frequencies over the {len(shared)} types both have ({covered} of its "
        f"{sum(known.values())} values); from histograms of width {_BIN[length]}; over molecules RDKit sanitises"
    )
    n = sum(sum(ours[key].values()) for key in shared)
    return Metric(name, value if shared else math.nan, None, n, definition)


def _histogram_distance(a: dict[str, int], b: dict[str, int]) -> float:
    """Wasserstein-1 distance of two histograms, in bins."""
    places = np.array(sorted({int(place) for place in a.keys() | b.keys()}))
    cumulative = [np.cumsum([side.get(str(place), 0) for place in places.tolist()]) for side in (a, b)]
    gap = cumulative[0] / cumulative[0][-1] - cumulative[1] / cumulative[1][-1]
    return float((np.abs(gap[:-1]) * np.diff(places)).sum())


def _variation(name: str, what: str, ours: Counter, theirs: Counter, reference: str) -> Metric:
    definition = (
        f"total variation distance (0 equal, 1 disjoint) of the {what} from {reference}; over molecules RDKit sanitises"
    )
    return Metric(name, total_variation(ours, theirs), None, ours.total(), definition)


def _typed_paths(mol: Mol, length: int) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """Every simple path of ``length`` atoms once, with its type, which does not depend on the direction."""
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    orders: list[dict[int, int]] = [{} for _ in numbers]
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        orders[i][j] = orders[j][i] = int(bond.GetBondType())
    paths = [(i,) for i in range(len(numbers))]
    for _ in range(length - 1):
        paths = [(*path, j) for path in paths for j in orders[path[-1]] if j not in path]
    for path in paths:
        if path[0] < path[-1]:
            kind = [numbers[path[0]]]
            for i, j in pairwise(path):
                kind += [orders[i][j], numbers[j]]
            yield path, min(tuple(kind), tuple(reversed(kind)))


def _lengths(x: Float[np.ndarray, "n 2 3"]) -> Float[np.ndarray, " n"]:
    return np.linalg.norm(x[:, 0] - x[:, 1], axis=-1)


def _angles(x: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, " n"]:
    return _between(x[:, 0] - x[:, 1], x[:, 2] - x[:, 1])


def _torsions(x: Float[np.ndarray, "n 4 3"]) -> Float[np.ndarray, " n"]:
    """Angle between the planes abc and bcd: the absolute torsion, the same for mirror images."""
    ab, bc, cd = x[:, 1] - x[:, 0], x[:, 2] - x[:, 1], x[:, 3] - x[:, 2]
    return _between(np.cross(ab, bc), np.cross(bc, cd))


def _between(u: Float[np.ndarray, "n 3"], v: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Angles in degrees; atan2 keeps the precision near 0 and 180 that arccos loses."""
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v), axis=-1), (u * v).sum(-1)))


_MEASURES: dict[int, Callable[[np.ndarray], np.ndarray]] = {2: _lengths, 3: _angles, 4: _torsions}
