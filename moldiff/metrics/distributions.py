"""How far the geometry and composition of a set of molecules are from a reference set.

Both sets count with the molecules RDKit sanitises; aromatic bonds are a type of their own, perceived by RDKit, so that
the choice of a Kekulé structure does not matter.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from rdkit.Chem import Mol

from moldiff.chem import quiet
from moldiff.metrics.core import Metric
from moldiff.metrics.validity import sanitised

Path = tuple[int, ...]  # bonded atoms a-b, a-b-c or a-b-c-d
Values = dict[tuple[int, ...], np.ndarray]  # type of path (atomic numbers and bond types, alternating) -> values

_KINDS = {2: ("bond_length_w1", "bond lengths (Å)"), 3: ("bond_angle_w1", "bond angles (°)"),
          4: ("torsion_w1", "torsions (°, absolute, 0-180)")}  # fmt: skip


def distribution_metrics(mols: Sequence[Mol | None], reference: Sequence[Mol | None], name: str) -> list[Metric]:
    """Wasserstein-1 distances of geometry and total variations of composition from ``reference``, called ``name``."""
    with quiet():
        sets = [[copy for m in side if m is not None and (copy := sanitised(m)[0])] for side in (mols, reference)]
    return [_geometry_metric(k, sets, name) for k in _KINDS] + [
        _variation("element_tv", "elements of atoms", sets, _elements, name),
        _variation("size_tv", "numbers of atoms of molecules", sets, lambda mol: [mol.GetNumAtoms()], name),
        _variation("ring_size_tv", "sizes of rings (SSSR)", sets, _ring_sizes, name),
        _variation("charge_tv", "formal charges of atoms", sets, _charges, name),
    ]


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


def _geometry_metric(length: int, sets: list[list[Mol]], reference: str) -> Metric:
    ours, theirs = (internal_coordinates(mols, length) for mols in sets)
    name, what = _KINDS[length]
    shared = ours.keys() & theirs.keys()
    covered, total = sum(len(theirs[kind]) for kind in shared), sum(map(len, theirs.values()))
    value = sum(len(theirs[kind]) / covered * wasserstein(ours[kind], theirs[kind]) for kind in sorted(shared))
    definition = (
        f"Wasserstein-1 distance of {what} from {reference}, per type (elements and bond types along the path), "
        f"averaged with the reference's frequencies over the {len(shared)} types both have ({covered} of its {total} "
        "values); over molecules RDKit sanitises"
    )
    return Metric(name, value if shared else math.nan, None, sum(len(ours[kind]) for kind in shared), definition)


def _variation(
    name: str, what: str, sets: list[list[Mol]], classes: Callable[[Mol], list[int | str]], reference: str
) -> Metric:
    ours, theirs = (Counter(c for mol in mols for c in classes(mol)) for mols in sets)
    definition = (
        f"total variation distance (0 equal, 1 disjoint) of the {what} from {reference}; over molecules RDKit sanitises"
    )
    return Metric(name, total_variation(ours, theirs), None, ours.total(), definition)


def _elements(mol: Mol) -> list[str]:
    return [atom.GetSymbol() for atom in mol.GetAtoms()]


def _ring_sizes(mol: Mol) -> list[int]:
    return [len(ring) for ring in mol.GetRingInfo().AtomRings()]


def _charges(mol: Mol) -> list[int]:
    return [atom.GetFormalCharge() for atom in mol.GetAtoms()]


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
