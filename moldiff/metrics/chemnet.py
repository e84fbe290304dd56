"""Fréchet ChemNet Distance (Preuer et al., J. Chem. Inf. Model. 2018, 58, 1736, 10.1021/acs.jcim.8b00234).

Network and weights come from the package ``fcd_torch``; batching and the Fréchet step are here, since those of the
package need functions that current NumPy and SciPy have dropped.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from rdkit import Chem
from torch import Tensor, nn

from moldiff.chem import quiet
from moldiff.errors import MoldiffError
from moldiff.metrics.core import Metric

LENGTH = 350  # tokens ChemNet reads; longer SMILES are cut by it
WIDTH = 512  # activations of its last hidden layer


class Moments(NamedTuple):
    """Of the activations of ``count`` molecules; those of the parts of a set add up to those of the set.

    Source of the sum: Chan et al., Am. Stat. 1983, 37, 242, 10.1080/00031305.1983.10483115.
    """

    count: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]  # sum of the outer products of the deviations from the mean

    @classmethod
    def of(cls, activations: Float[np.ndarray, "n d"]) -> "Moments":
        """Of at least one molecule."""
        mean = activations.mean(0)
        return cls(len(activations), mean, (activations - mean).T @ (activations - mean))

    @classmethod
    def none(cls) -> "Moments":
        """Of no molecule."""
        return cls(0, np.zeros(WIDTH), np.zeros((WIDTH, WIDTH)))

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        if not count:
            return self
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), self.scatter + other.scatter + between)


def fcd(smiles: Sequence[str], reference: Sequence[str], batch_size: int = 128) -> Metric:
    """:func:`fcd_of_moments` of two sets of SMILES.

    Raises :class:`ImportError` without ``fcd_torch``, :class:`MoldiffError` for a SMILES that RDKit does not read.
    """
    theirs = activation_moments(reference, batch_size)
    return fcd_of_moments(activation_moments(smiles, batch_size), theirs, "the reference")


def fcd_of_moments(ours: Moments, reference: Moments, name: str) -> Metric:
    """Squared Fréchet distance between the ChemNet activations of two sets; 0 for equal sets.

    It is biased upwards for small sets: compare values of the same n only; it is NaN for fewer than two of either.
    """
    definition = (
        f"Fréchet ChemNet distance (10.1021/acs.jcim.8b00234) of {ours.count} SMILES from the "
        f"{reference.count} of {name}, without transformation; lower is better, comparable at equal n only"
    )
    value = math.nan
    if min(ours.count, reference.count) > 1:
        covariances = [side.scatter / (side.count - 1) for side in (ours, reference)]
        value = frechet_distance(ours.mean, covariances[0], reference.mean, covariances[1])
    return Metric("fcd", value, None, ours.count, definition)


def activation_moments(smiles: Sequence[str], batch_size: int = 128) -> Moments:
    """Moments of the activations of ChemNet's last hidden layer, batch by batch."""
    total = Moments.none()
    for start in range(0, len(smiles), batch_size):
        total += Moments.of(chemnet_activations(smiles[start : start + batch_size], batch_size))
    return total


def chemnet_activations(smiles: Sequence[str], batch_size: int = 128) -> Float[np.ndarray, "n d"]:
    """Activations of ChemNet's last hidden layer for each SMILES, canonicalised first."""
    network = _chemnet()
    with torch.inference_mode():
        return np.concatenate([network(batch).double().numpy() for batch in _batches(smiles, batch_size)])


def frechet_distance(
    mean_a: Float[np.ndarray, " d"], cov_a: Float[np.ndarray, "d d"],
    mean_b: Float[np.ndarray, " d"], cov_b: Float[np.ndarray, "d d"],
) -> float:  # fmt: skip
    """|μa - μb|² + tr(A + B - 2 (A B)^½), squared 2-Wasserstein distance of Gaussians (10.1016/0047-259X(82)90077-X).

    tr (A B)^½ is the sum of the singular values of A^½ B^½: unlike the roots of the eigenvalues of A B, these stay
    exact when the covariances are singular, as they are for fewer molecules than dimensions.
    """
    roots = [_root(cov) for cov in (cov_a, cov_b)]
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap
    return max(0.0, float(distance))  # rounding can leave -1e-14 for equal sets


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


@cache
def _chemnet() -> nn.Module:
    package = _fcd_torch()
    weights = Path(package.__file__).with_name("ChemNet_v0.13_pretrained.pt")
    return package.load_imported_model(torch.load(weights, weights_only=True)).eval()


def _fcd_torch() -> ModuleType:
    try:
        import fcd_torch.utils
    except ImportError as error:
        raise ImportError("FCD needs ChemNet from the package fcd_torch; pip install 'moldiff[eval]'") from error
    return fcd_torch.utils


def _batches(smiles: Sequence[str], size: int) -> Iterator[Tensor]:
    """One-hot batches (b, tokens, LENGTH), scaled by the number of tokens as the published implementation does."""
    one_hot = _fcd_torch().get_one_hot
    for start in range(0, len(smiles), size):
        codes = np.stack([one_hot(_canonical(s), LENGTH) for s in smiles[start : start + size]])
        yield torch.from_numpy(codes / codes.shape[-1]).float().transpose(1, 2)


def _canonical(smiles: str) -> str:
    with quiet():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise MoldiffError(f"FCD: RDKit does not read the SMILES {smiles!r}; give valid molecules only")
    return Chem.MolToSmiles(mol)
