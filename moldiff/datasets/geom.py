"""GEOM's drugs in the language-neutral form they are published in: ``drugs_crude.msgpack.tar.gz`` (Axelrod &
Gómez-Bombarelli 2022, 10.1038/s41597-022-01288-4).

The file is a row of batches, each ``{SMILES: {"conformers": [{"totalenergy": hartree, "xyz": [[atomic number, x, y, z],
...], ...}, ...], ...}}`` with coordinates in Å. One molecule is in memory at a time. The ``rdkit_folder`` archive of the same
data consists of pickles and is not read.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from io import BufferedIOBase
from typing import Any

from moldiff.datasets.readers import ReadError
from moldiff.datasets.records import Record


def count_geom(file: BufferedIOBase, name: str) -> int:
    return sum(1 for _ in _entries(file, name, whole=False))


def read_geom(file: BufferedIOBase, name: str) -> Iterator[Record]:
    """Of each molecule the conformer of lowest energy; its bonds are those of the SMILES."""
    for row, (smiles, facts) in enumerate(_entries(file, name), 1):
        where = f"molecule {row}"
        try:
            lowest = min(facts["conformers"], key=lambda conformer: float(conformer["totalenergy"]))
            frame = [f"{int(number)} {x} {y} {z}" for number, x, y, z in lowest["xyz"]]
        except (KeyError, TypeError, ValueError) as error:
            reason = f"not a molecule with conformers, energies and coordinates ({type(error).__name__}: {error})"
            yield Record(row, str(smiles), where, "conformer", "", reason)
            continue
        text = "\n".join([str(smiles), str(len(frame)), "", *frame])
        yield Record(row, str(smiles), where, "conformer", text)


def _entries(file: BufferedIOBase, name: str, whole: bool = True) -> Iterator[tuple[Any, Any]]:
    """(SMILES, facts) of every molecule; (SMILES, None) if not ``whole``, which is faster."""
    try:
        import msgpack
    except ImportError as error:
        raise ReadError(f"{name}: needs msgpack; pip install 'moldiff[geom-drugs]'") from error
    try:
        with ExitStack() as stack:
            unpacker = msgpack.Unpacker(_inside(file, name, stack), strict_map_key=False, max_buffer_size=0)
            while True:
                try:
                    size = unpacker.read_map_header()
                except msgpack.OutOfData:
                    return
                for _ in range(size):
                    smiles = unpacker.unpack()
                    yield smiles, unpacker.unpack() if whole else unpacker.skip()
    except ReadError:  # which is a ValueError
        raise
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError, msgpack.UnpackException) as error:
        text = f"{type(error).__name__} {error}".strip()
        raise ReadError(f"{name}: not in the layout of drugs_crude.msgpack, or damaged ({text})") from error


def _inside(file: BufferedIOBase, name: str, stack: ExitStack) -> BufferedIOBase:
    """The msgpack file in a tar archive, compressed or not, or the file itself."""
    if ".tar" not in name:
        return stack.enter_context(gzip.open(file)) if name.endswith(".gz") else file
    archive = stack.enter_context(tarfile.open(fileobj=file, mode="r|*"))  # noqa: SIM115
    for member in archive:
        if member.isfile() and member.name.endswith(".msgpack"):
            return archive.extractfile(member)
    raise ReadError(f"{name}: no .msgpack file in it; give drugs_crude.msgpack.tar.gz (pickles are not read)")
