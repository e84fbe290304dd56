"""Two sets of weights that take turns: a pupil for a few long steps, and its teacher for the last ones.

Pupils are made by ``scripts/distill.py``; their files tell whose they are and how far down in σ they were taught.
"""

from pathlib import Path
from typing import Any

import torch

from moldiff.model import Model
from moldiff.model_file import ModelFileError, read_header
from moldiff.molecule import Molecules, Prediction
from moldiff.schedules import NoiseLevel
from moldiff.weights import shipped_models

UNTIL_KEY = "until"  # key of a pupil's info: σ below which its teacher goes on


class Relay(Model):
    """The pupil's estimates above ``until``, its teacher's below. It is known by the pupil's hash."""

    def __init__(self, pupil: Model, teacher: Model):
        super().__init__(pupil.config, pupil.data, pupil.info)
        self.network, self.teacher, self.until = pupil.network, teacher, pupil.info[UNTIL_KEY]
        self.eval()

    def denoise(self, noisy: Molecules, level: NoiseLevel, *told: Any) -> Prediction:
        """As :meth:`moldiff.model.Model.denoise`; all molecules have one σ."""
        if float(level.sigma.max()) < self.until:
            return self.teacher.denoise(noisy, level, *told)
        return super().denoise(noisy, level, *told)


def open_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """The model in a file; with a pupil comes its teacher, which ships with the package.

    Raises:
        ModelFileError: the file cannot be used (:meth:`moldiff.model_file.TrainedNetwork.load`), or the teacher is not there.
    """
    model = Model.load(path, device)
    if UNTIL_KEY not in model.info:
        return model
    wanted = teacher_of(model.info)
    for shipped in set(shipped_models().values()):
        if read_header(shipped)["sha256"] == wanted:
            return Relay(model, Model.load(shipped, device))
    raise ModelFileError(f"{path}: goes with weights {wanted[:16]}, which do not ship with this version; distil again")


def teacher_of(info: dict[str, Any]) -> str:
    """Hash of the weights that the pupil of this ``info`` learned from."""
    return info["started_from"]["sha256"]
