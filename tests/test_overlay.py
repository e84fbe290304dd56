"""Reference molecules → guides: what counts, in which frame, how large, and what is refused."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from moldiff import chem
from moldiff.errors import RequestError
from moldiff.generation import load
from moldiff.guides import FeatureGuide, ShapeGuide
from moldiff.known import Known
from moldiff.overlay import Overlay, features, overlay_of, read_overlay


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


def dummies(title: str) -> Chem.Mol:
    mol = Chem.MolFromSmiles("*.*")
    mol.SetProp("_Name", title)
    mol.AddConformer(Chem.Conformer(2), assignId=True)
    mol.GetConformer().SetPositions(np.array([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]]))
    mol.GetConformer().Set3D(True)
    return mol


@pytest.fixture(scope="module")
def methoxyethane() -> Chem.Mol:
    return embedded("CCOC")


def test_a_shape_is_its_heavy_atoms_about_their_centre(methoxyethane, info):
    (guide,) = Overlay(methoxyethane).guides(info)
    assert isinstance(guide, ShapeGuide)
    heavy = methoxyethane.GetConformer().GetPositions()[:4]
    np.testing.assert_allclose(guide.points, heavy - heavy.mean(0))
    assert guide.heavy == (False, True, True, True, True)


def test_with_a_known_part_the_frame_is_that_of_the_part(methoxyethane, info):
    part = chem.from_rdkit([methoxyethane], info.vocabulary)
    n = part.mask.shape[1]
    one = torch.zeros(n, dtype=torch.bool)
    one[0] = True
    known = Known(part, one, one, one[:, None] & one, ~one, grows=True)
    (guide,) = Overlay(methoxyethane).guides(info, known)
    np.testing.assert_allclose(guide.points[0], 0, atol=1e-5)
    heavy = methoxyethane.GetConformer().GetPositions()[:4]
    np.testing.assert_allclose(guide.points, heavy - heavy[0], atol=1e-5)


def test_molecules_are_about_as_large_as_the_shape(methoxyethane, info):
    assert Overlay(methoxyethane).heavy_atoms(info) == (3, 4)  # 3 to 5, and the model knows 3 and 4
    assert Overlay().heavy_atoms(info) is None
    with pytest.raises(RequestError, match=r"--shape: 6 heavy atoms, and model small knows molecules of 3 to 4"):
        Overlay(embedded("c1ccccc1")).heavy_atoms(info)


def test_features_are_donors_acceptors_and_atoms_of_aromatic_rings():
    kinds = [kind for kind, _ in features(embedded("Oc1ccccc1"))]
    assert {kind: kinds.count(kind) for kind in kinds} == {"donor": 1, "acceptor": 1, "aromatic": 6}
    mol = embedded("CCOC")
    ((kind, point),) = features(mol)
    assert kind == "acceptor"
    np.testing.assert_array_equal(point, mol.GetConformer().GetPositions()[2])


def test_dummy_atoms_are_points_of_the_kind_in_the_title(info):
    assert [(kind, *point) for kind, point in features(dummies("Donor"))] == [("donor", 0, 0, 1), ("donor", 0, 2, 0)]
    with pytest.raises(RequestError, match="dummy atoms titled 'pocket'; the title must be donor, acceptor, aromatic"):
        features(dummies("pocket"))


def test_tokens_that_suit_a_feature(info):
    (guide,) = overlay_of(None, [dummies("donor"), dummies("acceptor"), dummies("aromatic")]).guides(info)
    assert isinstance(guide, FeatureGuide)
    donor, acceptor, aromatic = guide.features[::2]
    names = {kind: [t for t, suits in zip(info.vocabulary, f.tokens, strict=True) if suits]
             for kind, f in {"donor": donor, "acceptor": acceptor, "aromatic": aromatic}.items()}  # fmt: skip
    assert names == {"donor": ["N", "O", "N+"], "acceptor": ["N", "O"], "aromatic": ["C", "N", "O"]}
    assert donor.bears == (True, False, False, False, False)
    assert acceptor.bears is None


def test_shape_and_pharmacophore_share_a_frame(methoxyethane, info):
    shape, feature = overlay_of(methoxyethane, methoxyethane).guides(info)
    assert feature.features[0].point == shape.points[2]


def test_files_are_read(tmp_path, methoxyethane):
    path = tmp_path / "two.sdf"
    records = [chem.sdf_record(mol, name, {}) for mol, name in [(methoxyethane, "ether"), (dummies("donor"), "donor")]]
    path.write_text("".join(records))
    overlay = read_overlay(path, path)
    assert overlay.shape.GetNumAtoms() == methoxyethane.GetNumAtoms()
    assert [kind for mol in overlay.pharmacophore for kind, _ in features(mol)] == ["acceptor", "donor", "donor"]
    assert read_overlay(None, None) == Overlay()


def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path, info):
    with pytest.raises(RequestError, match=r"--shape .*none.sdf: no such file"):
        read_overlay(tmp_path / "none.sdf", None)
    (tmp_path / "empty.sdf").write_text("\n")
    with pytest.raises(RequestError, match=r"--pharmacophore .*empty.sdf: no molecule in it"):
        read_overlay(None, tmp_path / "empty.sdf")
    (tmp_path / "bad.sdf").write_text("bad\n$$$$\n")
    with pytest.raises(RequestError, match=r"--shape .*bad.sdf: RDKit cannot read molecule 1"):
        read_overlay(tmp_path / "bad.sdf", None)
    with pytest.raises(RequestError, match="--shape: no 3D coordinates"):
        Overlay(Chem.MolFromSmiles("CCOC")).guides(info)
    with pytest.raises(RequestError, match="--pharmacophore: no donor, acceptor or aromatic ring"):
        overlay_of(None, embedded("CC")).guides(info)


def test_generation_follows_both_and_no_batch_changes_a_bit(trained):
    generator, aim = load(trained, "cpu"), embedded("C=O")

    def content(batch_size: int, **wishes) -> list[tuple[str, bytes]]:
        made = generator.generate(6, steps=8, seed=2, rejects=True, max_attempts=6, batch_size=batch_size, **wishes)
        return [(o.id, o.mol.GetConformer().GetPositions().tobytes()) for o in made]

    wishes = {"shape": aim, "pharmacophore": aim}
    together = content(8, **wishes)
    assert together == content(1, **wishes)
    assert {identity for identity, _ in together}.isdisjoint(identity for identity, _ in content(8))
    assert {pos for _, pos in together}.isdisjoint(pos for _, pos in content(8))


def test_the_model_must_know_molecules_of_the_size_of_the_shape(trained, methoxyethane):
    with pytest.raises(RequestError, match="--shape: 4 heavy atoms, and model four molecules knows"):
        load(trained, "cpu").generate(1, shape=methoxyethane)
