"""Checkpoints of a run: a folder of safetensors files, each small enough to be carried about, complete or absent."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from moldiff.errors import MoldiffError

PART_BYTES = 15 * 2**20  # a single larger tensor gets a file of its own


class CheckpointError(MoldiffError):
    """There is no checkpoint, or it cannot be read."""


def latest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    return max(run.glob("checkpoint-*"), default=None)


def write_checkpoint(run: Path, step: int, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write ``run/checkpoint-<step>`` and then remove older ones; a crash at any moment leaves a complete one."""
    final = run / f"checkpoint-{step:09d}"
    if final.exists():  # stopping right after a save
        return
    for left in run.glob(".checkpoint-*.tmp"):  # of a save that was killed
        shutil.rmtree(left)
    unfinished = run / f".{final.name}.tmp"
    unfinished.mkdir(parents=True)
    hashes = {}
    for k, part in enumerate(_parts(tensors)):
        name, content = f"part-{k:03d}.safetensors", save(part)
        _write(unfinished / name, content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    _write(unfinished / "header.json", json.dumps({**header, "parts": hashes}).encode())
    os.replace(unfinished, final)
    for old in run.glob("checkpoint-*"):
        if old != final:
            shutil.rmtree(old)


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header. Raises :class:`CheckpointError` for a folder that is not as it was written."""
    tensors: dict[str, Tensor] = {}
    try:
        header = json.loads((folder / "header.json").read_text())
        hashes = header.pop("parts", None) if isinstance(header, dict) else None
        if not hashes:
            raise ValueError("header.json names no parts")
        for name, expected in hashes.items():
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != expected:
                raise ValueError(f"{name} does not match its hash")
            tensors |= load(content)
    except (SafetensorError, OSError, ValueError) as error:
        remedy = "remove it: --resume takes an older one if there is one, else start again without --resume"
        raise CheckpointError(f"{folder}: cannot be read ({error}); {remedy}") from error
    return tensors, header


def _parts(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous().clone()
        if parts[-1] and size + tensor.nbytes > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
