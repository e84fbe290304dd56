"""Fréchet ChemNet Distance (Preuer et al., J. Chem. Inf. Model. 2018, 58, 1736, 10.1021/acs.jcim.8b00234).

Network and weights come from the package ``fcd_torch``; batching and the Fréchet step are here, since those of the
package need functions that current NumPy and SciPy have dropped.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from rdkit import Chem
from torch import Tensor, nn

from moldiff.chem import quiet
from moldiff.metrics.core import Metric

LENGTH = 350  # tokens ChemNet reads; longer SMILES are cut by it


def fcd(smiles: Sequence[str], reference: Sequence[str], batch_size: int = 128) -> Metric:
    """Squared Fréchet distance between the ChemNet activations of two sets of SMILES; 0 for equal sets.

    It is biased upwards for small sets: compare values of the same n only; it is NaN for fewer than two ``smiles``.
    Raises :class:`ImportError` without ``fcd_torch``, :class:`ValueError` for a SMILES that RDKit does not read and
    for a reference of fewer than two.
    """
    theirs = activation_moments(reference, batch_size)
    ours = activation_moments(smiles, batch_size) if len(smiles) > 1 else None
    definition = (
        f"Fréchet ChemNet distance (10.1021/acs.jcim.8b00234) of {len(smiles)} SMILES from {len(reference)} reference "
        "SMILES, without transformation; lower is better, comparable at equal n only"
    )
    value = frechet_distance(*ours, *theirs) if ours else math.nan
    return Metric("fcd", value, None, len(smiles), definition)


def activation_moments(
    smiles: Sequence[str], batch_size: int = 128
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Mean and covariance of the activations of ChemNet's last hidden layer."""
    if len(smiles) < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 molecules in each set, got {len(smiles)}")
    activations = chemnet_activations(smiles, batch_size)
    return activations.mean(0), np.cov(activations.T)


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
        raise ValueError(f"FCD: RDKit does not read the SMILES {smiles!r}; give valid molecules only")
    return Chem.MolToSmiles(mol)
