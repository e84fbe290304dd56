"""What the small networks inside the package say of molecules: properties that RDKit does not compute, places of hydrogens."""

from collections.abc import Collection, Sequence
from contextlib import suppress

import numpy as np
from rdkit import Chem
from rdkit.Chem import Mol

from moldiff import chem
from moldiff.conditions import Property
from moldiff.hydrogens import NOISES, Hydrogens
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.one_size import BATCH, filled_rows, inference, same_size_batches
from moldiff.predictor import Predictor
from moldiff.weights import shipped_helpers

HELPERS = {"predictors": Predictor, "hydrogens": Hydrogens}  # by folder of the weights inside the package


def predictor_of(properties: Collection[Property]) -> Predictor | None:
    """A shipped predictor of some of these properties, in the same units, if there is one."""
    asked = {(p.name, p.unit) for p in properties}
    for path in shipped_helpers("predictors"):
        predictor = Predictor.load(path)
        if asked & {(p.name, p.unit) for p in predictor.data.properties}:
            return predictor
    return None


def predicted(predictor: Predictor, mol: Mol) -> dict[str, float | None]:
    """By name of the property; None for molecules of other elements or more heavy atoms than it was trained on, and for ions:
    it sees no charges, and its training molecules have none in all.

    ``mol``: with coordinates and all hydrogens.
    """
    names = [p.name for p in predictor.data.properties]
    try:
        molecules = chem.from_rdkit([mol], predictor.data.vocabulary)
    except chem.ConversionError:
        return dict.fromkeys(names)
    if mol.GetNumHeavyAtoms() > predictor.data.heavy_range[1] or Chem.GetFormalCharge(mol):
        return dict.fromkeys(names)
    with inference():
        values = predictor.predict(molecules)[0].tolist()
    return dict(zip(names, values, strict=True))


def predictable(predictor: Predictor | None, properties: Sequence[Property]) -> list[str]:
    """Names of the properties that it predicts, in their units."""
    known = {(p.name, p.unit) for p in predictor.data.properties} if predictor else set()
    return [p.name for p in properties if (p.name, p.unit) in known]


def placer_of(data: DataInfo) -> Hydrogens | None:
    """Shipped weights that learned the hydrogens of the same molecules, if this data leave them to valence."""
    if data.hydrogens == "implicit":
        for path in shipped_helpers("hydrogens"):
            placer = Hydrogens.load(path)
            if _is_part(data, placer.data):
                return placer
    return None


def _is_part(data: DataInfo, whole: DataInfo) -> bool:
    """Whether a set is of the same source, and has neither tokens nor sizes that are new."""
    fits = data.heavy_range[1] <= whole.heavy_range[1]
    return data.source == whole.source and set(data.vocabulary) <= set(whole.vocabulary) and fits


def with_placed_hydrogens(placer: Hydrogens, mols: Sequence[Mol]) -> list[Mol]:
    """Copies with their hydrogens where ``placer`` has them, the other atoms exactly where they are.

    What it cannot read, such as an element that it does not know, stays as it is, as does what comes to nothing however often
    it is tried. A molecule's result does not depend on the others.
    """
    made, left = list(mols), dict[int, Molecules]()
    for k, mol in enumerate(mols):
        with suppress(chem.ConversionError):
            left[k] = chem.from_rdkit([mol], placer.data.vocabulary)
    with inference():
        for attempt in range(len(NOISES)):
            numbers = list(left)
            for rows in same_size_batches([mols[k].GetNumAtoms() for k in numbers], BATCH["cpu"]):
                batch = [numbers[row] for row in rows]
                molecules = Molecules.collate([left[k] for k in batch])
                filled = molecules.select(filled_rows(len(batch), molecules.mask.shape[1]))
                placed, sound = placer.place(filled, attempt)
                is_hydrogen = placer.are_hydrogens(molecules).numpy()[..., None]
                for row in np.flatnonzero(sound.numpy()[: len(batch)]).tolist():
                    k = batch[row]
                    made[k] = Mol(mols[k])
                    where = made[k].GetConformer().GetPositions()
                    pos = placed.pos[row].double().numpy()
                    made[k].GetConformer().SetPositions(np.where(is_hydrogen[row], pos, where))
                    del left[k]
    return made
