"""The metrics of MOSES (Polykovskiy et al., Front. Pharmacol. 2020, 11, 565644, 10.3389/fphar.2020.565644) on SMILES.

Valid is what RDKit reads, clean-up steps included: another rule than :mod:`moldiff.metrics.validity`. The reference sets
are profiles; MOSES has two, random test molecules and those of scaffolds that do not occur in its training set.
"""

import math
from collections.abc import Collection

import numpy as np
import pandas as pd
from jaxtyping import Float
from rdkit import Chem

from moldiff.chem import quiet
from moldiff.metrics.alerts import moses_alert
from moldiff.metrics.chemnet import fcd_of_moments
from moldiff.metrics.core import Metric, distinct_share, rate
from moldiff.metrics.distributions import wasserstein
from moldiff.metrics.fingerprints import internal_diversity, nearest
from moldiff.metrics.profiles import PROPERTIES, Profile, cosine_similarity

UNIQUE_AT = (1000, 10_000)
_SOURCE = "MOSES, 10.3389/fphar.2020.565644"
_UNITS = {"logp": "Crippen logP", "sa": "SA score", "qed": "QED", "weight": "molecular weight (g/mol)"}


def moses_facts(smiles: str | None) -> dict[str, str | None]:
    """moses_smiles: canonical, None if RDKit does not read ``smiles``; moses_alert: first filter broken, "" for none.

    ``smiles``: as generated, None for a molecule that has none.
    """
    with quiet():
        mol = None if smiles is None else Chem.MolFromSmiles(smiles)
        if mol is None or not mol.GetNumAtoms():
            return {"moses_smiles": None, "moses_alert": None}
        return {"moses_smiles": Chem.MolToSmiles(mol), "moses_alert": moses_alert(mol) or ""}


def moses_metrics(table: pd.DataFrame, train: Collection[str] | None = None) -> list[Metric]:
    """Valid, unique@k, filters and novelty from the columns of :func:`moses_facts`, rows in the order generated.

    ``train``: canonical SMILES of the training set, for the novelty.
    """
    valid = table["moses_smiles"].dropna()
    passes = table["moses_alert"].eq("").where(table["moses_smiles"].notna()).astype("boolean")
    metrics = [
        rate("moses_valid", len(valid), len(table), f"SMILES that RDKit reads, of all ({_SOURCE})"),
        *(_unique_at(valid, k) for k in UNIQUE_AT),
        rate("moses_filters", passes.sum(), len(valid),
             "molecules of neutral H, C, N, O, F, S, Cl, Br atoms and rings of at most 7 atoms without an alert of "
             f"MCF or PAINS, of those that RDKit reads ({_SOURCE})", passes),
    ]  # fmt: skip
    if train is not None:
        known = train if isinstance(train, set | frozenset) else set(train)
        distinct = set(valid)
        definition = f"distinct canonical SMILES that are none of the {len(known)} for training ({_SOURCE})"
        metrics.append(rate("moses_novelty", len(distinct - known), len(distinct), definition))
    return metrics


def similarity_metrics(
    ours: Profile, reference: Profile, name: str, similarity: Float[np.ndarray, " n"] | None = None
) -> list[Metric]:
    """How far a set is from a reference called ``name``: FCD, SNN, Frag, Scaf and the distances of properties.

    FCD only if both profiles have the ChemNet activations. ``similarity``: of each of ours to its nearest of the reference,
    which takes most of the time, if :func:`nearest` was asked already.
    """
    metrics = [] if ours.chemnet is None or reference.chemnet is None else [
        fcd_of_moments(ours.chemnet, reference.chemnet, name)]  # fmt: skip
    others = f"the {len(reference)} molecules of {name}, without stereo ({_SOURCE})"
    if similarity is None:
        similarity, _ = nearest(ours.fingerprints, reference.fingerprints)
    snn = similarity.mean() if len(ours) else math.nan
    texts = {
        "snn": ("mean Tanimoto similarity (Morgan, radius 2, 1024 bits) to the nearest of", snn),
        "frag": ("cosine similarity of the counts of BRICS fragments to those in",
                 cosine_similarity(ours.fragments, reference.fragments)),
        "scaf": ("cosine similarity of the counts of Murcko scaffolds (two rings or more) to those in",
                 cosine_similarity(ours.scaffolds, reference.scaffolds)),
    }  # fmt: skip
    metrics += [Metric(key, float(value), None, len(ours), f"{text} {others}") for key, (text, value) in texts.items()]
    return metrics + [_property_metric(key, ours, reference, others) for key in PROPERTIES]


def diversity_metrics(ours: Profile) -> list[Metric]:
    """Internal diversity: IntDiv and IntDiv2."""
    definition = (
        "1 - mean over the molecules of the power mean (exponent {}) of their Tanimoto similarity (Morgan, radius 2, "
        f"1024 bits) to all, themselves included ({_SOURCE}; arXiv:1708.08227)"
    )
    values = internal_diversity(ours.fingerprints, (1, 2))
    return [
        Metric(name, value, None, len(ours), definition.format(power))
        for name, value, power in zip(("intdiv", "intdiv2"), values, (1, 2), strict=True)
    ]


def _unique_at(valid: pd.Series, k: int) -> Metric:
    first = valid.iloc[:k]
    definition = f"distinct canonical SMILES of the first {len(first)} that RDKit reads, in the order given ({_SOURCE})"
    return distinct_share(f"moses_unique@{k}", first.nunique(), len(first), definition)


def _property_metric(key: str, ours: Profile, reference: Profile, others: str) -> Metric:
    column = PROPERTIES.index(key)
    distance = math.nan
    if len(ours) and len(reference):
        distance = wasserstein(ours.values[:, column], reference.values[:, column])
    return Metric(f"{key}_w1", distance, None, len(ours), f"Wasserstein-1 distance of the {_UNITS[key]} from {others}")
