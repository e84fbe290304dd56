"""Training, validation and test molecules."""

import numpy as np

from moldiff.datasets.prepared import SPLITS, PreparedDataError


def random_split(n: int, valid: float, test: float, seed: int) -> np.ndarray:
    """(n,) int8, index into SPLITS; ``valid`` and ``test``: shares, of at least one molecule each.

    Raises :class:`PreparedDataError` if none is left for training.
    """
    names = np.zeros(n, np.int8)
    order = np.random.default_rng(seed).permutation(n)
    n_valid, n_test = _sizes(n, valid, test)
    names[order[:n_valid]], names[order[n_valid : n_valid + n_test]] = 1, 2
    return names


def scaffold_split(scaffold: np.ndarray, valid: float, test: float) -> np.ndarray:
    """As :func:`random_split`, but molecules of one scaffold, (n,) bytes, stay together.

    The largest groups come first and go where there is room, in the order of SPLITS; where there is none, into training
    (Wu et al. 2018, 10.1039/C7SC02664A, in whose rule they would go into test). Of equal groups the one met first comes
    first. Raises :class:`PreparedDataError` if valid or test stays empty.
    """
    n = len(scaffold)
    _, first, group, sizes = np.unique(scaffold, return_index=True, return_inverse=True, return_counts=True)
    n_valid, n_test = _sizes(n, valid, test)
    room = [n - n_valid - n_test, n_valid, n_test]
    of_group = np.zeros(len(sizes), np.int8)
    for k in np.lexsort((first, -sizes)).tolist():
        name = next((name for name, left in enumerate(room) if sizes[k] <= left), 0)
        of_group[k] = name
        room[name] -= int(sizes[k])
    names = of_group[group]
    for name in (1, 2):
        if not (names == name).any():
            text = f"--split scaffold: the {len(sizes)} scaffolds leave no molecule for {SPLITS[name]}"
            raise PreparedDataError(f"{text}; use --split random")
    return names


def _sizes(n: int, valid: float, test: float) -> tuple[int, int]:
    sizes = max(1, round(valid * n)), max(1, round(test * n))
    if sum(sizes) >= n:
        text = f"--valid {valid:g} --test {test:g}: of {n} molecules none is left for training"
        raise PreparedDataError(f"{text}; give smaller shares, or more molecules")
    return sizes
