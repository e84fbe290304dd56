"""Reference molecules → guides: what counts, in which frame, how large, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import embedded
from rdkit import Chem

from moldiff import chem
from moldiff.errors import RequestError
from moldiff.generation import load
from moldiff.known import Known
from moldiff.overlay import Overlay, features, overlay_of, read_overlay
from moldiff.overlay_guides import FeatureGuide, ShapeGuide


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
    benzene = embedded("c1ccccc1")
    with pytest.raises(RequestError, match=r"--shape: 6 heavy atoms, and model small knows molecules of 3 to 4 heavy"):
        Overlay(benzene).heavy_atoms(info)
    assert Overlay(None, (methoxyethane,)).heavy_atoms(info) == (3, 4)  # of any number, since it has one feature
    with pytest.raises(RequestError, match=r"--pharmacophore: 6 atoms with a feature, and model small knows"):
        Overlay(None, (benzene,)).heavy_atoms(info)


def test_what_holds_nothing_to_overlay_is_refused(info):
    with pytest.raises(RequestError, match="--shape: has no heavy atoms"):
        Overlay(embedded("[H][H]")).heavy_atoms(info)
    with pytest.raises(RequestError, match="--pharmacophore: no molecule is given"):
        overlay_of(None, [])


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
    for kind, suits in {"donor": ["N", "O", "N+"], "acceptor": ["N", "O"], "aromatic": ["C", "N", "O"]}.items():
        (guide,) = overlay_of(None, dummies(kind)).guides(info)
        assert isinstance(guide, FeatureGuide)
        assert len(guide.features) == 2
        tokens = guide.features[0].tokens
        assert [t for t, suitable in zip(info.vocabulary, tokens, strict=True) if suitable] == suits


def test_an_atom_may_have_several_features(info):
    (guide,) = overlay_of(None, [dummies("donor"), dummies("acceptor"), dummies("aromatic")]).guides(info)
    assert [f.tokens for f in guide.features] == [tuple(t in ("N", "O") for t in info.vocabulary)] * 2


def test_rings_are_told_with_their_bonds(info):
    phenol = embedded("Oc1ccccc1")
    (guide,) = overlay_of(None, [phenol, dummies("donor")]).guides(info)
    orders = [order for _, _, order in guide.bonds]
    assert sorted(orders) == [1, 1, 1, 2, 2, 2]
    at = np.array([f.point for f in guide.features])
    lengths = [np.linalg.norm(at[i] - at[j]) for i, j, _ in guide.bonds]
    np.testing.assert_allclose(lengths, 1.39, atol=0.03)


def test_the_centre_is_that_of_the_shape_or_of_all_features(methoxyethane):
    heavy = methoxyethane.GetConformer().GetPositions()[:4]
    np.testing.assert_allclose(Overlay(methoxyethane, (dummies("donor"),)).centre, heavy.mean(0))
    two = Overlay(None, (dummies("donor"), methoxyethane)).centre
    np.testing.assert_allclose(two, np.concatenate([heavy, [[0, 0, 1], [0, 2, 0]]]).mean(0))
    assert Overlay().centre is None


def test_shape_and_pharmacophore_share_a_frame(methoxyethane, info):
    shape, feature = overlay_of(methoxyethane, methoxyethane).guides(info)
    assert feature.features[0].point == shape.points[2]


def test_files_are_read(tmp_path, methoxyethane):
    path = tmp_path / "two.sdf"
    records = [chem.sdf_record(mol, name, {}) for mol, name in [(methoxyethane, "ether"), (dummies("donor"), "donor")]]
    path.write_text("".join(records))
    one = tmp_path / "one.sdf"
    one.write_text(records[0])
    overlay = read_overlay(one, path)
    assert overlay.shape.GetNumAtoms() == methoxyethane.GetNumAtoms()
    assert [kind for mol in overlay.pharmacophore for kind, _ in features(mol)] == ["acceptor", "donor", "donor"]
    assert read_overlay(None, None) == Overlay()
    with pytest.raises(RequestError, match=r"--shape .*two\.sdf: holds several molecules"):
        read_overlay(path, None)


def test_coordinates_that_were_made_lie_in_a_frame_of_their_own(tmp_path, methoxyethane, info, part):
    (tmp_path / "one.sdf").write_text(chem.sdf_record(methoxyethane, "", {}))
    (tmp_path / "one.smi").write_text("CCOC ether\n")
    (tmp_path / "other.smi").write_text("CCCO\n")
    given, made, other = (tmp_path / name for name in ("one.sdf", "one.smi", "other.smi"))
    shape, feature = read_overlay(made, made).guides(info)
    assert feature.features[0].point == shape.points[2]
    for pair in ((given, made), (made, other)):
        with pytest.raises(RequestError, match="coordinates made from a SMILES lie in a frame of their own"):
            read_overlay(*pair).guides(info)
    known = replace(part(1), frame="CCOC")
    assert read_overlay(made, None).guides(info, known) and Overlay().guides(info, known) == ()
    for path in (given, other):
        with pytest.raises(RequestError, match="in a frame of their own"):
            read_overlay(path, None).guides(info, known)


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
    with pytest.raises(RequestError, match="--pharmacophore: no 3D coordinates"):
        overlay_of(None, Chem.MolFromSmiles("CCOC")).guides(info)
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


def test_molecules_lie_on_the_reference_in_its_own_frame(trained):
    aim = embedded("C=O")
    conformer = aim.GetConformer()
    conformer.SetPositions(conformer.GetPositions() + np.array([30.0, -20.0, 10.0]))
    made = load(trained, "cpu").generate(4, steps=8, seed=2, rejects=True, max_attempts=4, shape=aim)
    for outcome in made:
        mean = outcome.mol.GetConformer().GetPositions().mean(0)
        np.testing.assert_allclose(mean, conformer.GetPositions()[:2].mean(0), atol=1e-3)


def test_scores_tell_how_a_molecule_lies(methoxyethane):
    overlay = Overlay(methoxyethane, (methoxyethane,))
    assert overlay.scores(methoxyethane) == {"shape_tanimoto": 1, "features_matched": 1}
    away = Chem.Mol(methoxyethane)
    away.GetConformer().SetPositions(methoxyethane.GetConformer().GetPositions() + np.array([30.0, 0.0, 0.0]))
    assert overlay.scores(away) == {"shape_tanimoto": 0, "features_matched": 0}
    assert overlay.columns == dict.fromkeys(overlay.scores(away), "float64")
    assert Overlay().scores(away) == Overlay().columns == {}
    assert overlay_of(None, [methoxyethane, dummies("donor")]).scores(methoxyethane) == {"features_matched": 0.3333}


@pytest.fixture(scope="module")
def made_over():
    """A cresol, and molecules of the shipped weights: in its volume, at its features, and with neither asked for."""
    aim = embedded("Oc1ccccc1C")
    positions = aim.GetConformer().GetPositions()
    aim.GetConformer().SetPositions(positions - positions[:8].mean(0))
    wishes = [{"shape": aim}, {"pharmacophore": aim}, {}]
    generator = load("qm9")
    return aim, *(list(generator.generate(8, seed=1, heavy_atoms=8, **wish)) for wish in wishes)


def mean_score(overlay: Overlay, records) -> float:
    return float(np.mean([next(iter(overlay.scores(record.mol).values())) for record in records]))


def test_molecules_fill_the_shape(made_over):
    aim, filling, _, free = made_over
    found = mean_score(Overlay(aim), filling)
    assert found == pytest.approx(np.mean([record.scores["shape_tanimoto"] for record in filling]), abs=1e-4)
    assert found > 0.8
    assert found > mean_score(Overlay(aim), free) + 0.15


def test_molecules_have_the_features_where_they_are(made_over):
    aim, _, matching, free = made_over
    overlay = Overlay(None, (aim,))
    assert mean_score(overlay, matching) > 0.5
    assert mean_score(overlay, matching) > mean_score(overlay, free) + 0.3


def test_the_model_must_know_molecules_of_the_size_of_the_shape(trained, methoxyethane):
    with pytest.raises(RequestError, match="--shape: 4 heavy atoms, and model four molecules knows"):
        load(trained, "cpu").generate(1, shape=methoxyethane)
