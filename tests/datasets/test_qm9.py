"""QM9: the reader on rows of the real table, the match of graph and geometry, the split, the prepared sample."""

import io
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from moldiff import chem
from moldiff.datasets import qm9
from moldiff.datasets.prepared import SPLITS, read_meta, read_split
from moldiff.errors import RequestError
from moldiff.files import alone_in
from moldiff.force_field import whole_mols

SAMPLE = Path(__file__).parents[2] / "data" / "qm9_sample"
TABLE = SAMPLE / "qm9pack_sample.csv"
# Methane as the figshare archive has it: tabs, Mathematica exponents, two SMILES, two InChI.
METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t\
-40.476062\t-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 2.765748*^-4\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""


@pytest.fixture(scope="module")
def rows() -> dict[int, qm9.Row]:
    return {row.index: row for row in qm9.read_rows(TABLE)[0]}


def wheel(path: Path) -> Path:
    """A wheel of the shape of qm9pack: two tables out of order, and a file that is none."""
    header, *body = TABLE.read_text().splitlines(keepends=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("qm9pack/data/qm9_part2.csv", "".join([header, *body[:7]]))
        archive.writestr("qm9pack/data/qm9_part1.csv", "".join([header, *body[7:]]))
        archive.writestr("qm9pack/data/qm9_polarizability.csv", "XYZ_file,A_xx\n")
    return path


def tar(path: Path, *texts: str) -> Path:
    with tarfile.open(path, "w:bz2") as archive:
        for number, text in enumerate(texts, start=1):
            member = tarfile.TarInfo(f"dsgdb9nsd_{number:06}.xyz")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode("latin-1")))
    return path


def parsed_symbols(row: qm9.Row) -> list[str]:
    return re.findall("[A-Z]", row.elements)


def parsed_positions(row: qm9.Row) -> np.ndarray:
    return np.array([float(x) for x in re.findall(r"[^\s,\[\]]+", row.xyz)]).reshape(-1, 3)


def moved(row: qm9.Row, pos: np.ndarray) -> qm9.Row:
    return row._replace(xyz=" ".join(map(str, pos.ravel())))


def test_methane_by_hand(rows):
    methane = rows[1]
    assert methane.smiles == "C"
    assert methane.properties == pytest.approx([13.21, 13.73631, -10.54985, 3.18645, 0, 6.469], abs=1e-5)
    record = qm9.convert(methane)
    assert record.number.tolist() == [6, 1, 1, 1, 1]
    assert record.bond_index.tolist() == [[0, 1], [0, 2], [0, 3], [0, 4]]
    assert record.pos[1].tolist() == pytest.approx([0.002150416, -0.0060313176, 0.0019761204])


def test_rows_of_the_real_table_convert_but_two(rows):
    outcomes = {index: qm9.convert(row) for index, row in rows.items()}
    assert {k: v for k, v in outcomes.items() if isinstance(v, str)} == {133857: "bond length", 133859: "bond length"}
    assert sorted(rows) == list(rows)
    assert len(rows) == 20


@pytest.mark.parametrize("index", [23, 24, 486, 52466, 59818, 133487])
def test_rows_numbered_unlike_their_smiles_get_sensible_bonds(rows, index):
    record = qm9.convert(rows[index])
    i, j = record.bond_index.T
    length = np.linalg.norm(record.pos[i] - record.pos[j], axis=1)
    carbons = (record.number[i] == 6) & (record.number[j] == 6)
    longest = {3: 1.23, 2: 1.36, 1: 1.60}
    for order in set(record.bond_order[carbons].tolist()):
        assert (length[carbons & (record.bond_order == order)] < longest[order]).all()
    triple = carbons & (record.bond_order == 3)
    assert (length[triple] > 1.19).all()


def test_assignment_follows_any_renumbering(rows):
    row = rows[133487]
    record, symbols, pos = qm9.convert(row), parsed_symbols(row), parsed_positions(row)
    bonds = {(*pair, order) for pair, order in zip(record.bond_index.tolist(), record.bond_order.tolist(), strict=True)}
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(symbols))
        shuffled = qm9.convert(moved(row, pos[order])._replace(elements=" ".join(symbols[k] for k in order)))
        ends = np.sort(order[shuffled.bond_index], axis=1).tolist()
        assert {(*pair, o) for pair, o in zip(ends, shuffled.bond_order.tolist(), strict=True)} == bonds


@pytest.mark.parametrize("change, reason", [
    ({"smiles": "C1CC"}, "smiles"),
    ({"smiles": "CO"}, "composition"),
    ({"xyz": "0 0 0 1 1 1"}, "composition"),
    ({"elements": "C,H,H,H,X"}, "composition"),
])  # fmt: skip
def test_inconsistent_rows_have_a_reason(rows, change, reason):
    assert qm9.convert(rows[1]._replace(**change)) == reason


def test_wrong_isomers_have_a_reason(rows):
    assert (rows[9].smiles, rows[8].smiles) == ("CC#C", "CO")
    assert qm9.convert(rows[9]._replace(smiles="C=C=C")) == "hydrogens"
    assert not isinstance(qm9.convert(rows[8]._replace(smiles="OC")), str), "another order of the same is found"


def test_distances_are_judged(rows):
    methanol = rows[8]
    pos = parsed_positions(methanol)
    oxygen = pos[parsed_symbols(methanol).index("O")]
    of_hydroxyl = np.linalg.norm(pos - oxygen, axis=1) < 1.2
    apart = pos + 0.5 * of_hydroxyl[:, None] * (oxygen - pos[0])
    assert qm9.convert(moved(methanol, apart)) == "bond length"
    assert qm9.convert(moved(methanol, 2 * pos)) == "bond length"


def test_atoms_as_near_as_bonded_are_judged(rows):
    fluorine_oxide = rows[1]._replace(smiles="FOF", elements="F O F", xyz="0.95 1.03 0 0 0 0 -0.95 1.03 0")
    assert qm9.convert(fluorine_oxide).bond_order.tolist() == [1, 1]
    assert qm9.convert(fluorine_oxide._replace(xyz="0.6 1.26 0 0 0 0 -0.6 1.26 0")) == "contact"


def test_standard_split_is_edm_s():
    names = qm9.split_names(130_831)
    assert np.bincount(names).tolist() == [100_000, 17_748, 13_083]
    state = np.random.RandomState(0)  # EDM: np.random.seed(0); np.random.permutation; np.split train, valid, test
    train, valid, test, extra = np.split(state.permutation(130_831), [100_000, 117_748, 130_831])
    assert len(extra) == 0
    for number, members in enumerate((train, valid, test)):
        assert (names[members] == number).all()


def test_small_sets_are_split_in_proportion():
    assert np.bincount(qm9.split_names(20)).tolist() == [15, 3, 2]


def test_a_wheel_is_read_without_installing(tmp_path, rows):
    found, source = qm9.read_rows(wheel(tmp_path / "qm9pack-1.0.3-py3-none-any.whl"))
    assert found == list(rows.values())
    assert list(source["source_sha256"]) == ["qm9_part1.csv", "qm9_part2.csv"]
    assert not source["standard_split"]


def test_the_installed_package_is_found_without_importing(tmp_path, monkeypatch, rows):
    package = tmp_path / "qm9pack"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "data" / "qm9_part1.csv").write_bytes(TABLE.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    assert qm9.read_rows(None)[0] == list(rows.values())


def test_an_absent_package_names_both_remedies(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(qm9.QM9Error, match=r"pip install 'moldiff\[qm9\]'.*--archive"):
        qm9.read_rows(None)


def test_figshare_archive_agrees_with_the_table(tmp_path, rows):
    found, source = qm9.read_rows(tar(tmp_path / "dsgdb9nsd.xyz.tar.bz2", METHANE))
    mine, theirs = qm9.convert(found[0]), qm9.convert(rows[1])
    assert found[0].properties == rows[1].properties
    np.testing.assert_allclose(mine.pos, theirs.pos, atol=1e-6)
    assert mine.bond_index.tolist() == theirs.bond_index.tolist()
    assert "want of uncharacterized.txt" in source["source"]


def test_figshare_exclusions_are_honoured(tmp_path):
    other = METHANE.replace("gdb 1\t", "gdb 2\t")
    archive = tar(tmp_path / "dsgdb9nsd.xyz.tar.bz2", METHANE, other)
    heading = "3054 molecules\n" * 9
    (tmp_path / "uncharacterized.txt").write_text(f"{heading}    2 C C C\n------\n\n")
    found, source = qm9.read_rows(archive)
    assert [row.index for row in found] == [1]
    assert "without the 1 molecules" in source["source"]


@pytest.mark.parametrize("name, content, message", [
    ("a.whl", None, "no such file"),
    ("a.txt", b"x", "neither a wheel"),
    ("a.csv", b"Index,SMILES\n1,C\n", "a.csv: no column Elements"),
    ("a.csv", TABLE.read_bytes()[:1500], "a.csv, line 4"),
    ("a.csv", TABLE.read_bytes().splitlines(keepends=True)[0], "no molecules"),
    ("a.csv", TABLE.read_bytes().replace(b"XYZ", b"X\xff"), r"a.csv: cannot be read \(.* byte 0xff .*\); fetch it again"),
    ("a.csv", TABLE.read_bytes() + b"\xff", r"a.csv: cannot be read \(.* byte 0xff .*\); fetch it again"),
    ("a.tar.bz2", b"x", r"^[^\n]*a.tar.bz2: cannot be read \(file could not be opened [a-z]*\); fetch it again$"),
])  # fmt: skip
def test_bad_sources_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(qm9.QM9Error, match=message):
        qm9.read_rows(path)


def test_bad_archive_members_are_named(tmp_path):
    for text in ("5\ngdb 1\n", "\xff"):
        with pytest.raises(qm9.QM9Error, match=r"dsgdb9nsd_000001.xyz: not a QM9 file"):
            qm9.read_rows(tar(tmp_path / "dsgdb9nsd.xyz.tar.bz2", text))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:60] + b"damage" + b[66:]])
def test_damaged_archives_are_named(tmp_path, damage):
    for whole in (tar(tmp_path / "a.tar.bz2", *[METHANE] * 50), wheel(tmp_path / "a.whl")):
        whole.write_bytes(damage(whole.read_bytes()))
        with pytest.raises(qm9.QM9Error, match=rf"{whole.name}: (cannot be read|neither a wheel)[^\n]*$"):
            qm9.read_rows(whole)


def test_a_place_is_one_run_s_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(qm9, "convert_all", lambda *_: pytest.fail("worked"))
    with alone_in(tmp_path), pytest.raises(RequestError, match="another run is writing there"):
        qm9.prepare_qm9(TABLE, tmp_path, jobs=1)


def test_result_does_not_depend_on_processes(tmp_path, monkeypatch):
    seen = []
    one = qm9.prepare_qm9(TABLE, tmp_path / "one", jobs=1)
    monkeypatch.setattr(qm9, "CHUNK", 8)
    two = qm9.prepare_qm9(TABLE, tmp_path / "two", jobs=2, progress=lambda done, total: seen.append((done, total)))
    assert one == two == read_meta(tmp_path / "two")
    assert seen == [(8, 20), (16, 20), (20, 20)]
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert one["counts"] == {
        "read": 20,
        "kept": 18,
        "dropped": {"bond length": 2},
        "dropped_rows": {"bond length": [133857, 133859]},
    }


def test_hydrogens_are_left_out_or_not(tmp_path):
    with pytest.raises(qm9.QM9Error, match="hydrogens 'none': explicit or implicit"):
        qm9.prepare_qm9(TABLE, tmp_path, jobs=1, hydrogens="none")


def test_hydrogens_can_be_left_out(tmp_path, rows):
    meta = qm9.prepare_qm9(TABLE, tmp_path, jobs=1, hydrogens="implicit")
    assert meta["hydrogens"] == "implicit" and "H" not in meta["vocabulary"]
    alone = {index for index, row in rows.items() if sum(s != "H" for s in parsed_symbols(row)) == 1}
    assert alone and set(meta["counts"]["dropped_rows"]["too small"]) == alone
    for name in SPLITS:
        split = read_split(tmp_path, name)
        for size, (molecules, places) in split.buckets().items():
            for mol, place in zip(whole_mols(molecules, meta["vocabulary"], "implicit"), places.tolist(), strict=True):
                row = rows[int(split.source[place])]
                assert size == sum(symbol != "H" for symbol in parsed_symbols(row))
                assert sorted(a.GetSymbol() for a in mol.GetAtoms()) == sorted(parsed_symbols(row))


def test_what_another_set_left_there_goes_when_told_to(tmp_path):
    (tmp_path / "dropped.csv").write_text("file,row\n")
    (tmp_path / ".work").mkdir()
    qm9.prepare_qm9(TABLE, tmp_path, jobs=1, force=True)
    arrays = [f"{name}.{kind}" for name in SPLITS for kind in ("safetensors", "smi")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["meta.json", *arrays])


def test_nothing_usable_is_an_error(tmp_path, rows):
    with pytest.raises(qm9.QM9Error, match="none of the 1 molecules"):
        qm9.write_set(tmp_path, [rows[133857]], np.zeros(1, int), ["bond length"], {})


def test_sample_has_the_whole_vocabulary_and_sound_metadata():
    meta = read_meta(SAMPLE)
    assert meta["vocabulary"] == ["H", "C", "C-", "N", "N-", "N+", "O", "O-", "F"]
    assert meta["molecules"] == {"train": 400, "valid": 100, "test": 100}
    assert [(p["name"], p["unit"]) for p in meta["properties"]] == [p[:2] for p in qm9.PROPERTIES]
    assert meta["coordinate_std"] == pytest.approx(1.4, abs=0.05)
    train = read_split(SAMPLE, "train")
    gap = next(p for p in meta["properties"] if p["name"] == "gap")
    assert gap["mean"] == pytest.approx(train.properties[:, 1].mean(), rel=1e-5)


@pytest.mark.parametrize("name", SPLITS)
def test_sample_molecules_are_those_of_their_smiles(name):
    vocabulary, split = read_meta(SAMPLE)["vocabulary"], read_split(SAMPLE, name)
    smiles = (SAMPLE / f"{name}.smi").read_text().splitlines()
    assert len(smiles) == len(set(split.source.tolist())) == len(split)
    for molecules, members in split.buckets().values():
        for mol, row in zip(chem.to_rdkit(molecules, vocabulary), members.tolist(), strict=True):
            verdict = chem.check(mol)
            assert verdict.reason is None, smiles[row]
            assert chem.smiles(verdict.mol, stereo=False) == smiles[row]
