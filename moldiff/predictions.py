"""What the networks inside the package predict of finished molecules: properties that RDKit does not compute."""

from collections.abc import Collection, Sequence

import torch
from rdkit.Chem import Mol

from moldiff import chem
from moldiff.conditions import Property
from moldiff.one_size import one_thread
from moldiff.predictor import Predictor
from moldiff.weights import shipped_predictors


def predictor_of(properties: Collection[Property]) -> Predictor | None:
    """A shipped predictor of some of these properties, in the same units, if there is one."""
    asked = {(p.name, p.unit) for p in properties}
    for path in shipped_predictors():
        predictor = Predictor.load(path)
        if asked & {(p.name, p.unit) for p in predictor.data.properties}:
            return predictor
    return None


def predicted(predictor: Predictor, mol: Mol) -> dict[str, float | None]:
    """By name of the property; None for molecules of other elements or more heavy atoms than it was trained on.

    ``mol``: with coordinates and all hydrogens.
    """
    names = [p.name for p in predictor.data.properties]
    try:
        molecules = chem.from_rdkit([mol], predictor.data.vocabulary)
    except chem.ConversionError:
        return dict.fromkeys(names)
    if mol.GetNumHeavyAtoms() > max(heavy for heavy, _, _ in predictor.data.size_histogram):
        return dict.fromkeys(names)
    with one_thread(), torch.inference_mode():
        values = predictor.predict(molecules)[0].tolist()
    return dict(zip(names, values, strict=True))


def predictable(predictor: Predictor | None, properties: Sequence[Property]) -> list[str]:
    """Names of the properties that it predicts, in their units."""
    known = {(p.name, p.unit) for p in predictor.data.properties} if predictor else set()
    return [p.name for p in properties if (p.name, p.unit) in known]
