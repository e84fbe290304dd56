"""Collections known by name, each from a small file in the layout it is published in."""

import gzip
import io
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from moldiff.datasets import published
from moldiff.datasets.binarycif import decode
from moldiff.datasets.curation import Curation, Unusable, curate
from moldiff.datasets.laying import lay_smiles
from moldiff.datasets.library import Library, read_items, survey
from moldiff.datasets.prepared import SPLITS, read_meta, read_split
from moldiff.datasets.preparing import prepare_library
from moldiff.datasets.published import PUBLISHED, count_published, find, label, read_published
from moldiff.datasets.readers import ReadError

SMILES = ["CCO", "CCN", "CCC", "CC=O", "CC(=O)O", "c1ccccc1", "Cc1ccccc1", "CCCl", "CCF", "CCS"]


def in_wheel(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(PUBLISHED[name].member, content)
    return path


def in_space(text: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(text))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    content = gzip.compress("\n".join(["SMILES", *SMILES, ""]).encode(), mtime=0)
    return in_wheel(tmp_path_factory.mktemp("moses") / "molsets.whl", "moses", content)


class TestMoses:
    def test_is_read_from_a_wheel(self, wheel):
        records = list(read_published("moses", find("moses", wheel)))
        assert [record.text for record in records] == SMILES
        assert (records[2].number, records[2].id, records[2].where) == (3, "moses-3", "line 4")
        assert count_published("moses", wheel) == 10

    def test_installed_or_in_a_wheel_is_one_request(self, wheel, tmp_path, monkeypatch):
        """So that work begun with the one goes on with the other."""
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(tmp_path)

        class Installed:
            def locate_file(self, name: str) -> Path:
                return tmp_path / name

        monkeypatch.setattr(published, "distribution", lambda name: Installed())
        installed = find("moses", None)
        assert installed == tmp_path / "moses/dataset/data/train.csv.gz"
        requests = [Library([path], source="moses").request() for path in (wheel, installed)]
        assert requests[0] == requests[1]
        assert list(requests[0]["sha256"]) == ["train.csv.gz"]

    def test_what_is_not_there_is_named(self, wheel, tmp_path, monkeypatch):
        def absent(name: str) -> None:
            raise PackageNotFoundError(name)

        monkeypatch.setattr(published, "distribution", absent)
        with pytest.raises(ReadError, match=r"molsets, which is not installed; pip install --no-deps molsets, or give"):
            find("moses", None)
        with pytest.raises(ReadError, match=r"a.whl: no such file; give a downloaded wheel of molsets"):
            find("moses", tmp_path / "a.whl")
        with pytest.raises(ReadError, match=r"molsets.whl: has no biotite/structure/info/components.bcif; give a down"):
            find("pdb-ligands", wheel)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"SMILES\nC\n", "train.csv.gz: damaged"),
            (gzip.compress(b"SMILES\nC\n" * 99)[:-9], "train.csv.gz: damaged"),
            (gzip.compress(b"<html>"), "no heading SMILES"),
        ],
    )
    def test_damaged(self, tmp_path, content, message):
        wheel = in_wheel(tmp_path / "molsets.whl", "moses", content)
        with pytest.raises(ReadError, match=message):
            count_published("moses", wheel)

    def test_a_set_of_some_with_computed_properties(self, wheel, tmp_path):
        library = Library([wheel], source="moses", limit=9, properties=[("Weight", ""), ("TPSA", ""), ("hba", "")])
        meta = prepare_library(library, tmp_path / "set", jobs=1)
        assert meta["counts"]["read"] == meta["counts"]["kept"] == 9
        assert [(p["name"], p["unit"]) for p in meta["properties"]] == [
            ("weight", "g/mol"),
            ("tpsa", "Å²"),
            ("hba", ""),
        ]
        assert meta["settings"]["computed"] == ["weight", "tpsa", "hba"]
        assert "test_scaffolds are not read" in meta["split"]
        assert meta["source"].startswith("MOSES, train molecules") and meta["licence"].startswith("molsets: MIT")
        rows = {}
        for name in SPLITS:
            split, smiles = read_split(tmp_path / "set", name), (tmp_path / "set" / f"{name}.smi").read_text().split()
            rows |= dict(zip(smiles, zip(split.source.tolist(), split.properties.tolist(), strict=True), strict=True))
        assert all(SMILES[source - 1] == text for text, (source, _) in rows.items()), "numbered by their row of MOSES"
        known = {"CCO": (46.069, 20.23, 1), "c1ccccc1": (78.114, 0, 0), "CCF": (48.06, 0, 0), "CCC": (44.097, 0, 0)}
        found = {text: values for text, (_, values) in rows.items() if text in known}
        assert len(found) >= 2
        for text, values in found.items():
            assert values == pytest.approx(known[text], abs=0.001)
        assert read_meta(tmp_path / "set") == meta

    def test_the_draw_hangs_on_the_seed_alone(self, wheel):
        def drawn(seed: int, limit: int) -> list[int]:
            library = Library([wheel], source="moses", limit=limit, curation=Curation(seed=seed))
            return [item.source for item in read_items(library, 10)]

        assert drawn(0, 4) == drawn(0, 4) == sorted(drawn(0, 4))
        assert len(set(drawn(0, 4))) == 4
        assert len({tuple(drawn(seed, 4)) for seed in range(5)}) > 1
        assert drawn(0, 99) == list(range(1, 11))

    def test_a_property_that_cannot_be_computed(self, wheel):
        with pytest.raises(ReadError, match="--property pIC50: moses has none; computed are qed, sa, "):
            survey(Library([wheel], source="moses", properties=[("pIC50", "")]))


def packed(values: Any) -> dict[str, Any]:
    """Text or 32-bit integers as BinaryCIF."""
    kind = INTS
    if all(isinstance(value, int) for value in values):
        return {"data": np.array(values, "<i4").tobytes(), "encoding": [kind]}
    words = list(dict.fromkeys(values))
    offsets = np.concatenate([[0], np.cumsum([len(word) for word in words])]).astype("<i4")
    step = {
        "kind": "StringArray", "stringData": "".join(words), "offsets": offsets.tobytes(), "offsetEncoding": [kind],
        "dataEncoding": [kind],
    }  # fmt: skip
    return {"data": np.array([words.index(value) for value in values], "<i4").tobytes(), "encoding": [step]}


def coordinates(values: list[float | None]) -> dict[str, Any]:
    numbers = [0 if value is None else round(1000 * value) for value in values]
    data = packed(numbers)
    data["encoding"] = [{"kind": "FixedPoint", "factor": 1000, "srcType": 33}, *data["encoding"]]
    mask = {"data": bytes(2 * (value is None) for value in values), "encoding": [{"kind": "ByteArray", "type": 4}]}
    return {"data": data, "mask": mask}


def dictionary(components: dict[str, tuple[Chem.Mol, str]]) -> bytes:
    """{id: (molecule, status)} as ``biotite`` packs the dictionary."""
    atoms: list[tuple] = []
    bonds: list[tuple] = []
    names = {1: "SING", 2: "DOUB", 3: "TRIP"}
    for identity, (mol, _) in components.items():
        mol = Chem.Mol(mol)
        Chem.Kekulize(mol, clearAromaticFlags=True)
        place = mol.GetConformer().GetPositions().tolist() if mol.GetNumConformers() else None
        for k, atom in enumerate(mol.GetAtoms()):
            xyz = place[k] if place else (None, None, None)
            atoms.append((identity, f"A{k}", atom.GetSymbol().upper(), atom.GetFormalCharge(), *xyz))
        for bond in mol.GetBonds():
            order = names[int(bond.GetBondTypeAsDouble())]
            bonds.append((identity, f"A{bond.GetBeginAtomIdx()}", f"A{bond.GetEndAtomIdx()}", order))

    def category(name: str, columns: dict[str, Any]) -> dict[str, Any]:
        made = [
            {"name": key, **(coordinates(values) if "Cartn" in key else {"data": packed(values), "mask": None})}
            for key, values in columns.items()
        ]
        return {"name": name, "rowCount": 0, "columns": made}

    of_atom = ("comp_id", "atom_id", "type_symbol", "charge", *(f"pdbx_model_Cartn_{x}_ideal" for x in "xyz"))
    of_bond = ("comp_id", "atom_id_1", "atom_id_2", "value_order")
    status = [status for _, status in components.values()]
    categories = [
        category("_chem_comp", {"id": list(components), "pdbx_release_status": status}),
        category("_chem_comp_atom", dict(zip(of_atom, map(list, zip(*atoms, strict=True)), strict=True))),
        category("_chem_comp_bond", dict(zip(of_bond, map(list, zip(*bonds, strict=True)), strict=True))),
    ]
    return msgpack.packb({"dataBlocks": [{"header": "components", "categories": categories}]})


BYTES = {"kind": "ByteArray", "type": 1}
INTS = {"kind": "ByteArray", "type": 3}


class TestBinaryCif:
    """The examples of the specification (Sehnal et al. 2020)."""

    @pytest.mark.parametrize(
        ("stored", "steps", "values"),
        [
            ([120, 123, 12], [{"kind": "FixedPoint", "factor": 100}, INTS], [1.2, 1.23, 0.12]),
            ([1, 3, 2, 1, 3, 2], [{"kind": "RunLength"}, INTS], [1, 1, 1, 2, 3, 3]),
            ([0, 3, 2, 1], [{"kind": "Delta", "origin": 1000}, INTS], [1000, 1003, 1005, 1006]),
            ([1, 2, -3, 127, 1], [{"kind": "IntegerPacking", "isUnsigned": False}, BYTES], [1, 2, -3, 128]),
            ([-128, -128, -1, 127, 0], [{"kind": "IntegerPacking", "isUnsigned": False}, BYTES], [-257, 127]),
        ],
    )
    def test_steps(self, stored, steps, values):
        data = np.array(stored, "<i1" if steps[-1] is BYTES else "<i4").tobytes()
        assert decode({"data": data, "encoding": steps}).tolist() == pytest.approx(values)

    def test_unsigned_packing(self):
        steps = [{"kind": "IntegerPacking", "isUnsigned": True}, {"kind": "ByteArray", "type": 4}]
        assert decode({"data": bytes([255, 1, 0, 255, 0]), "encoding": steps}).tolist() == [256, 0, 255]

    def test_text(self):
        assert decode(packed(["a", "AB", "a"])).tolist() == ["a", "AB", "a"]


@pytest.fixture(scope="module")
def components(tmp_path_factory) -> Path:
    content = dictionary({
        "ETH": (in_space("CCO"), "REL"), "OLD": (in_space("CCN"), "OBS"), "NIT": (in_space("C[N+](=O)[O-]"), "REL"),
        "FLT": (Chem.AddHs(Chem.MolFromSmiles("CCC")), "REL"), "ALA": (in_space("C[C@H](N)C(=O)O"), "REL"),
        "RAD": (Chem.MolFromSmiles("[CH2]C"), "REL"),
    })  # fmt: skip
    return in_wheel(tmp_path_factory.mktemp("pdb") / "biotite.whl", "pdb-ligands", content)


class TestPdbLigands:
    def test_components(self, components):
        records = {record.id: record for record in read_published("pdb-ligands", components)}
        assert count_published("pdb-ligands", components) == len(records) == 6
        assert records["OLD"].reason == "withdrawn by the wwPDB"
        assert records["FLT"].reason == "no ideal coordinates"
        assert records["ALA"].where == "component ALA"
        for name, smiles in (("ETH", "CCO"), ("NIT", "C[N+](=O)[O-]"), ("ALA", "C[C@H](N)C(=O)O")):
            found = curate(records[name], Curation())
            assert found.origin == "source"
            assert found.structure.smiles == Chem.CanonSmiles(smiles.replace("@", ""))
            assert found.identity == Chem.CanonSmiles(smiles)
            np.testing.assert_allclose(found.structure.pos, in_space(smiles).GetConformer().GetPositions(), atol=6e-4)

    def test_hydrogens_are_those_listed(self):
        """A component that lacks some is no molecule, and none are made up."""
        mol = Chem.RWMol(in_space("CC"))
        mol.RemoveAtom(7)
        record = next(iter(self.records(mol)))
        with pytest.raises(Unusable, match="radical"):
            curate(record, Curation())

    @staticmethod
    def records(mol: Chem.Mol) -> Any:
        content = io.BytesIO(dictionary({"X": (mol, "REL")}))
        return PUBLISHED["pdb-ligands"].read(content, "components.bcif")

    @pytest.mark.parametrize("content", [b"", b"CCO\n", msgpack.packb({"dataBlocks": []}), msgpack.packb([1, 2])])
    def test_another_file(self, tmp_path, content):
        path = tmp_path / "components.bcif"
        path.write_bytes(content)
        with pytest.raises(ReadError, match=r"components.bcif: not the BinaryCIF file expected, or damaged"):
            count_published("pdb-ligands", find("pdb-ligands", path))


DRUGS = ["CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "C[N+](=O)[O-]", "CC(C)(C)N=[N+]=[N-]", "NS(=O)(=O)c1ccc(F)cc1",
         "C/C=C/C(=O)[O-]", "C/C(N)=N/c1ccccc1"]  # fmt: skip


def shuffled(mol: Chem.Mol, seed: int) -> tuple[list[int], np.ndarray]:
    """Atomic numbers and positions (Å) in another order."""
    order = np.random.default_rng(seed).permutation(mol.GetNumAtoms())
    numbers = [mol.GetAtomWithIdx(k).GetAtomicNum() for k in order.tolist()]
    return numbers, mol.GetConformer().GetPositions()[order]


def entry(*conformers: tuple[float, Chem.Mol]) -> dict[str, Any]:
    made = []
    for energy, mol in conformers:
        numbers, pos = shuffled(mol, 5)
        xyz = [[float(z), *place] for z, place in zip(numbers, pos.tolist(), strict=True)]
        made.append({"geom_id": 1, "totalenergy": energy, "boltzmannweight": 0.5, "xyz": xyz})
    return {"totalconfs": len(made), "charge": 0, "conformers": made, "lowestenergy": conformers[0][0]}


@pytest.fixture(scope="module")
def conformers() -> bytes:
    """Two batches, as in ``drugs_crude.msgpack``."""
    far, near = in_space(DRUGS[0]), in_space(DRUGS[0])
    near.GetConformer().SetPositions(near.GetConformer().GetPositions() + 7)
    first = {DRUGS[0]: entry((-70.0, far), (-70.1, near)), "CCC": entry((-1.0, in_space("CCO")))}
    second = {DRUGS[1]: entry((-20.0, in_space(DRUGS[1]))), "CCN": {"conformers": []}}
    return msgpack.packb(first) + msgpack.packb(second)


class TestGeomDrugs:
    @pytest.fixture(params=["drugs.msgpack", "drugs.msgpack.gz", "drugs.msgpack.tar.gz"])
    def archive(self, request, conformers, tmp_path) -> Path:
        path = tmp_path / request.param
        if ".tar" in path.name:
            with tarfile.open(path, "w:gz") as archive:
                member = tarfile.TarInfo("drugs_crude.msgpack")
                member.size = len(conformers)
                archive.addfile(member, io.BytesIO(conformers))
        else:
            path.write_bytes(gzip.compress(conformers) if path.suffix == ".gz" else conformers)
        return path

    def test_molecules(self, archive):
        path = find("geom-drugs", archive)
        records = list(read_published("geom-drugs", path))
        assert count_published("geom-drugs", path) == len(records) == 4
        assert label("geom-drugs", path) == archive.name
        aspirin, alanine = (curate(records[k], Curation()) for k in (0, 2))
        assert (aspirin.identity, alanine.identity) == tuple(map(Chem.CanonSmiles, DRUGS[:2]))
        assert aspirin.structure.pos.mean() == pytest.approx(7, abs=1), "the conformer of lowest energy"
        for record, detail in ((records[1], "not those of CCC"), (records[3], "with conformers, energies")):
            with pytest.raises(Unusable, match=f"unreadable: .*{detail}"):
                curate(record, Curation())

    def test_pickles_and_other_archives_are_refused(self, tmp_path):
        path = tmp_path / "rdkit_folder.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("rdkit_folder/drugs/a.pickle"))
        with pytest.raises(
            ReadError, match=r"^rdkit_folder\.tar\.gz: no .msgpack file in it; give .* \(pickles are not read\)$"
        ):
            count_published("geom-drugs", path)
        path.with_name("a.msgpack").write_bytes(b"SMILES\n")
        with pytest.raises(ReadError, match=r"a.msgpack: not in the layout of drugs_crude.msgpack, or damaged"):
            count_published("geom-drugs", path.with_name("a.msgpack"))

    def test_cut_short(self, conformers, tmp_path):
        path = tmp_path / "drugs.msgpack"
        path.write_bytes(conformers[:-4])
        with pytest.raises(ReadError, match="or damaged"):
            count_published("geom-drugs", path)


class TestLaying:
    @pytest.mark.parametrize("text", DRUGS)
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_any_order_of_the_atoms(self, text, seed):
        mol = in_space(text)
        numbers, pos = shuffled(mol, seed)
        found, reason = lay_smiles(Chem.MolToSmiles(Chem.MolFromSmiles(text), doRandom=True), bare(numbers, pos))
        assert reason == ""
        Chem.AssignStereochemistryFrom3D(found)
        assert Chem.MolToSmiles(Chem.RemoveHs(found)) == Chem.CanonSmiles(text)
        there = sorted(np.round(found.GetConformer().GetPositions(), 4).tolist())
        assert there == sorted(np.round(pos, 4).tolist())
        for bond in found.GetBonds():
            ends = (found.GetConformer().GetAtomPosition(k) for k in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
            assert 0.9 < next(ends).Distance(next(ends)) < 1.9

    def test_double_bonds_lie_on_the_shortest_distances(self):
        """Of the carboxylate's two oxygens, which the neighbours cannot tell apart."""
        numbers = [6, 8, 8, 1]
        pos = np.array([[0, 0, 0], [1.40, 0, 0], [-0.6, 1.05, 0], [-0.6, -0.9, 0]])
        found, _ = lay_smiles("C(=O)[O-]", bare(numbers, pos))
        double = next(bond for bond in found.GetBonds() if bond.GetBondTypeAsDouble() == 2)
        oxygen = max(double.GetBeginAtomIdx(), double.GetEndAtomIdx())
        assert found.GetConformer().GetPositions()[oxygen].tolist() == [-0.6, 1.05, 0]

    @pytest.mark.parametrize("text", ["CCN", "COC", "[H][H]", "C1CC"])
    def test_another_molecule(self, text):
        numbers, pos = shuffled(in_space("CCO"), 0)
        found, reason = lay_smiles(text, bare(numbers, pos))
        assert found is None and text in reason


def bare(numbers: list[int], pos: np.ndarray) -> Chem.Mol:
    mol = Chem.RWMol()
    for number in numbers:
        mol.AddAtom(Chem.Atom(number))
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(pos)
    conformer.Set3D(True)
    mol.AddConformer(conformer, assignId=True)
    return mol.GetMol()
