"""Files of any program: what is read, and what each kind of broken input gets."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem

from moldiff import chem
from moldiff.datasets import readers
from moldiff.datasets.readers import ReadError, kind_of, read_records
from moldiff.datasets.records import Record, records_of

WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"


def sdf(smiles: str, name: str = "") -> str:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return chem.sdf_record(mol, name or smiles, {})


@pytest.fixture
def write(tmp_path):
    def file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return file


def read(path: Path, column: str | None = None) -> list[tuple[int, str, str, str]]:
    """(number, id, where, canonical SMILES or reason) of every record."""
    return [(r.number, r.id, r.where, said(r)) for r in read_records(path, column)]


def said(record: Record) -> str:
    mol, reason = record.read()
    assert (mol is None) == bool(reason)
    if mol is None:
        return reason
    return Chem.MolToSmiles(Chem.RemoveHs(mol, sanitize=False)) if mol.GetNumBonds() else Chem.MolToSmiles(mol)


# ---- what is read


@pytest.mark.parametrize("name", ["a.sdf", "a.sd", "a.mol", "a.SDF", "a.sdf.gz"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_sdf(write, name, line_end):
    text = (sdf("CCO", "one") + sdf("C#N", "two")).replace("\n", line_end)
    found = read(write(name, text.removesuffix(f"$$$${line_end}")))
    assert found == [(1, "one", "line 1", "CCO"), (2, "two", f"line {len(sdf('CCO').splitlines()) + 1}", "C#N")]


@pytest.mark.parametrize("mark", ["\f", "\v", "\x1c", "\x85", "\u2028"])
def test_titles_may_hold_what_python_takes_for_the_end_of_a_line(write, mark):
    title = f"one{mark}two"
    assert read(write("a.sdf", sdf("CCO", title))) == [(1, title, "line 1", "CCO")]
    assert read(write("a.xyz", WATER.replace("water", title))) == [(1, title, "line 1", "O.[H].[H]")]


def test_sdf_is_as_written(write):
    """RDKit's usual reading turns pentavalent nitro groups into charged ones and adds hydrogens."""
    text = sdf("C[N+](=O)[O-]").replace("M  CHG  2   2   1   4  -1\n", "").replace("  2  4  1  0", "  2  4  2  0")
    (record,) = read_records(write("a.sdf", text))
    mol, _ = record.read()
    assert [atom.GetFormalCharge() for atom in mol.GetAtoms()] == [0] * 7
    assert mol.GetConformer().Is3D()


def test_xyz_has_atoms_and_coordinates_but_no_bonds(write):
    (record,) = read_records(write("a.xyz", WATER))
    mol, _ = record.read()
    assert (record.kind, record.id, mol.GetNumBonds()) == ("xyz", "water", 0)
    assert [atom.GetSymbol() for atom in mol.GetAtoms()] == ["O", "H", "H"]
    assert mol.GetConformer().GetPositions().tolist() == [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]


def test_xyz_frames_with_blank_lines_numbers_for_elements_and_numbers_as_comments(write):
    frames = f"{WATER}\n\n3\n17\n8 0 0 0 0.1\n1 0.96 0 0 0.2\n1 -0.24 0.93 0 0.3\n3\n\nCL 0 0 0\nna 3 0 0\nH 5 5 5"
    assert read(write("a.xyz", frames)) == [
        (1, "water", "line 1", "O.[H].[H]"), (2, "17", "line 8", "O.[H].[H]"),
        (3, "", "line 13", "Cl.[H].[Na]"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.smi", "a.smiles", "a.txt", "a.smi.gz"])
def test_smiles_with_and_without_names_and_heading(write, name):
    text = "SMILES Name\nCCO ethanol, 96 %\nC#N\n\t\n"
    assert read(write(name, text)) == [(1, "ethanol, 96 %", "line 2", "CCO"), (2, "", "line 3", "C#N")]
    assert read(write(name, text.partition("\n")[2]))[0] == (1, "ethanol, 96 %", "line 1", "CCO")


def test_what_stands_behind_a_smiles_is_not_always_a_name(write):
    found = read(write("a.smi", "CC |^1:0| ethyl\nCC |a\n"))
    assert found[0][3] == "a CXSMILES: what stands between | and | is not read; leave it out"
    assert found[1] == (2, "|a", "line 2", "CC")


def test_hydrogens_that_a_smiles_implies_are_atoms(write):
    counts = {"C": 5, "[CH3]": 4, "[C]": 1, "c1cc[nH]c1": 10, "[H]O[H]": 3, "C(C)(C)(C)(C)C": 21}
    found = [record.read()[0].GetNumAtoms() for record in read_records(write("a.smi", "\n".join(counts)))]
    assert found == list(counts.values())


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", 'id,Canonical_SMILES\n"x, y",CCO\n2,C#N\n'), ("a.tsv", "smiles\tName\nCCO\tx, y\nC#N\t2\n"),
     ("a.csv", '"SMILES";"title"\n"CCO";"x, y"\n"C#N";"2"\n'), ("a.csv.gz", '\ufeffsmiles,id\nCCO,"x, y"\nC#N,2\n')],
)  # fmt: skip
def test_tables(write, name, text):
    assert read(write(name, text)) == [(1, "x, y", "line 2", "CCO"), (2, "2", "line 3", "C#N")]


def test_a_quoted_field_may_go_on_over_lines(write):
    many = "\n".join(f"line {k} of a block" for k in range(150))
    found = read(write("a.csv", f'smiles,id\nCCO,"two\nlines"\nCC,b\nC,"{many}"\nCN,c\n'))
    assert found == [
        (1, "two\nlines", "line 2", "CCO"), (2, "b", "line 4", "CC"), (3, many, "line 5", "C"), (4, "c", "line 155", "CN")
    ]  # fmt: skip


@pytest.mark.parametrize("stray", ['CCN,"b', 'CCN,"3-nitro 5""', '"CCN,b'])
@pytest.mark.parametrize("below", [1, 300, 9000])
def test_a_stray_quote_takes_no_other_row_with_it(write, stray, below):
    rows = [f"{'C' * (1 + k % 9)},{k}" for k in range(below)]
    found = read(write("a.csv", "\n".join(["smiles,id", "CCO,a", stray, *rows, 'CF,"last"', ""])))
    assert found[0] == (1, "a", "line 2", "CCO")
    assert found[1] == (2, "", "line 3", "not a row of a table (a quote that is not closed)")
    assert [row[1] for row in found[2:]] == [*map(str, range(below)), "last"]


@pytest.mark.parametrize("stray", ['CCN,"b', '"CCN,b'])
def test_a_stray_quote_in_the_last_line(write, stray):
    found = read(write("a.csv", f"smiles,id\nCCO,a\n{stray}\n"))
    assert found[1] == (2, "", "line 3", "not a row of a table (a quote that is not closed)")


def test_the_column_with_smiles_can_be_named(write):
    path = write("a.csv", "smiles,product\nC,CC\n")
    assert read(path)[0][3] == "C"
    assert read(path, "product")[0][3] == "CC"


def parquet(path: Path, columns: dict[str, list]) -> Path:
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    writer.write_table(pyarrow.table(columns), path)
    return path


def test_parquet(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"n": [1, 2, 3], "SMILES": ["CCO", None, "C(C"], "id": [7, None, 9]})
    assert read(path) == [
        (1, "7", "row 1", "CCO"), (2, "", "row 2", "no SMILES in this row"), (3, "9", "row 3", "not a SMILES: 'C(C'"),
    ]  # fmt: skip


def test_parquet_of_bytes(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"smiles": [b"CCO", b"\xff", None], "id": [b"one", None, None]})
    assert read(path)[0] == (1, "one", "row 1", "CCO")
    assert [found[3] for found in read(path)[1:]] == ["not a SMILES: '\ufffd'", "no SMILES in this row"]


def test_parquet_with_columns_of_one_name(tmp_path):
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    for names, refused in ((["smiles", "x", "x"], False), (["x", "smiles", "smiles"], True)):
        writer.write_table(pyarrow.Table.from_arrays([["C"], ["C"], ["C"]], names=names), path)
        if refused:
            with pytest.raises(ReadError, match=r"a\.parquet: has several columns 'smiles'; rename all but one"):
                read(path)
        else:
            assert read(path) == [(1, "", "row 1", "C")]


@pytest.mark.parametrize(("heading", "twice"), [("smiles,x,x", None), ("smiles,SMILES", None), ("x,smiles,smiles", "smiles"),
                                                ("id,smiles,id", "id")])  # fmt: skip
def test_a_table_with_columns_of_one_name(tmp_path, heading, twice):
    path = tmp_path / "a.csv"
    path.write_text(f"{heading}\nC,C,C\n")
    if twice:
        with pytest.raises(ReadError, match=rf"a\.csv: has several columns '{twice}'; rename all but one"):
            read(path)
    else:
        assert read(path) == [(1, "", "line 2", "C")]


def test_molecules_in_memory():
    named = Chem.MolFromSmiles("CCO")
    named.SetProp("_Name", "ethanol")
    flat, none, spatial = records_of([named, None, Chem.MolFromMolBlock(sdf("C"), removeHs=False)])
    assert (flat.id, flat.read()[0].GetNumAtoms(), flat.where) == ("ethanol", 9, "molecule 1")
    assert none.read() == (None, "None instead of a molecule")
    assert spatial.read()[0].GetConformer().Is3D()


# ---- what is broken: a record with its reason


GOOD = sdf("CO", "good")
COORDINATE = GOOD.splitlines()[4][:10]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (
            "".join(sdf("CCN").splitlines(keepends=True)[:6]) + "$$$$\n",
            "ends after 6 lines, though 10 atoms and 9 bonds",
        ),
        (GOOD.replace(COORDINATE, "       nan", 1), "atom 1: coordinates"),
        (GOOD.replace(COORDINATE, "       inf", 1), "are no three numbers"),
        (GOOD.replace(COORDINATE, "   1,2345 ", 1), "are no three numbers"),  # RDKit would read 1.0
        (GOOD.replace(COORDINATE, " " * 10, 1), "are no three numbers"),  # and here those of the next column
        (GOOD.replace(" C  ", " Xx ", 1), "atom 1: unknown element 'Xx'"),
        (GOOD.replace("  1  2  1", "  1 22  1", 1), "RDKit cannot read it"),
        ("$$$$\n", "an empty record"),
        ("\n" + GOOD, "does not say how many atoms and bonds there are"),
        ("CCO\nCCC\n$$$$\n", "ends after 2 lines, before any atom"),
    ],
)
def test_a_broken_sdf_record_says_why_and_takes_no_other_with_it(write, bad, reason):
    found = read(write("a.sdf", sdf("CCO") + bad + GOOD))
    assert [number for number, *_ in found] == [1, 2, 3]
    assert (found[0][3], found[2][3]) == ("CCO", "CO")
    assert reason in found[1][3]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("4\nshort\n" + WATER.split("\n", 2)[2], "4 atoms announced, 3 lines follow"),
        ("2\nlong\n" + WATER.split("\n", 2)[2], "2 atoms announced, 3 lines follow"),
        (WATER.replace("0.96", "nan"), "atom 2: coordinates 'nan 0 0' are no three numbers"),
        (WATER.replace("0.96", "abc"), "atom 2: coordinates 'abc 0 0'"),
        (WATER.replace("H 0.96 0 0", "H 0.96 0"), "atom 2: coordinates '0.96 0'"),
        (WATER.replace("O", "Xx"), "atom 1: unknown element 'Xx'"),
        (WATER.replace("H 0.96 0 0\n", "\n"), "atom 2: unknown element ''"),
        ("0\nnothing\n", "no atoms"),
    ],
)
def test_a_broken_frame_says_why_and_takes_no_other_with_it(write, bad, reason):
    found = read(write("a.xyz", WATER + bad + WATER))
    assert [said for *_, said in found][::2] == ["O.[H].[H]"] * 2
    assert reason in found[1][3] and len(found) == 3


def test_text_before_the_first_frame(write):
    assert "starts with 'hello' instead of the number" in read(write("a.xyz", "hello\n" + WATER))[0][3]


def test_empty_lines_within_smiles_count_and_those_at_the_end_do_not(write):
    found = read(write("a.smi", "CCO\n\n  \nC(C\nhello world\n\n\n"))
    assert [(n, w, s) for n, _, w, s in found] == [
        (1, "line 1", "CCO"), (2, "line 2", "an empty line"), (3, "line 3", "an empty line"),
        (4, "line 4", "not a SMILES: 'C(C'"), (5, "line 5", "not a SMILES: 'hello'"),
    ]  # fmt: skip


def test_rows_without_smiles(write):
    found = read(write("a.csv", "id,smiles\n1,CCO\n\n2,\n3\n"))
    assert [said for *_, said in found] == [
        "CCO", "an empty row", "no SMILES in this row", "a row of 1 fields; the SMILES should be field 2",
    ]  # fmt: skip


def test_wrong_bytes_are_a_bad_record(write):
    found = read(write("a.smi", b"CCO caf\xe9\nC\xe9C\n" + b"CC\n" * 20))
    assert found[0][1:] == ("caf\ufffd", "line 1", "CCO")
    assert "not a SMILES" in found[1][3]


def test_a_compressed_file_that_was_cut_keeps_what_came_before(write):
    path = write("a.sdf.gz", "".join(sdf("C" * n) for n in range(1, 20)))
    path.write_bytes(path.read_bytes()[:-400])
    found = read(path)
    assert len(found) > 2 and found[0][3] == "C"
    assert "nothing can be read from here on" in found[-1][3]


def test_a_record_without_end_does_not_fill_the_memory(write, monkeypatch):
    monkeypatch.setattr(readers, "MAX_RECORD", 2000)
    found = read(write("a.sdf", "endless\n" * 1000 + "$$$$\n" + GOOD))
    assert "more than 2000 characters" in found[0][3]
    assert found[1][3] == "CO"


# ---- what is no file of molecules at all: one line


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.sdf", "", "is empty"), ("a.smi", "\n \n", "is empty"), ("a.sdf", bytes(range(256)) * 9, "is binary"),
        ("a.smi", b"\xc3\x28\xa0\xa1" * 99, "is binary"), ("a.sdf", "<!DOCTYPE html>\n<html>", "is a web page"),
        ("a.sdf", "\n <HTML><body>", "is a web page"), ("a.smi", "CCO\n".encode("utf-16"), "is UTF-16 text"),
        ("a.pdb", "ATOM", "format .pdb is not read; give .sdf"), ("a", "CCO", "without suffix"),
        ("a.csv", "a,b\n1,2\n", "none of its columns ('a', 'b')"), ("a.parquet", "PAR", "is no Parquet file"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_molecules(write, name, content, says):
    path = write(name, content)
    with pytest.raises(ReadError) as error:
        read_records(path)
    assert says in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_other_files_that_are_none(write, tmp_path):
    (tmp_path / "b.sdf").mkdir()
    damaged = write("c.smi", "CCO").rename(tmp_path / "c.smi.gz")
    for path, says in ((tmp_path / "a.sdf", "no such file"), (tmp_path / "b.sdf", "is a directory"), (damaged, "gzip")):
        with pytest.raises(ReadError, match=says):
            read_records(path)
    with pytest.raises(ReadError, match=r"--column x: .* has no such column; there are 'smiles'"):
        read_records(write("d.csv", "smiles\nC\n"), "x")
    with pytest.raises(ReadError, match="only for CSV"):
        read_records(write("e.smi", "C\n"), "smiles")


def test_kinds():
    assert [kind_of(Path(n)) for n in ("a.sdf", "a.xyz.gz", "a.csv", "a.parquet")] == ["sdf", "xyz", "smiles", "smiles"]


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=80),
    st.sampled_from(["sdf", "xyz", "smi", "csv"]),
)
def test_no_text_crashes_a_reader(tmp_path_factory, text, suffix):
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    path.write_text(("smiles\n" if suffix == "csv" else "") + text, encoding="utf-8")
    try:
        found = list(read_records(path))
    except ReadError:
        return
    assert [record.number for record in found] == list(range(1, len(found) + 1))
    assert all((record.read()[0] is None) == bool(record.read()[1]) for record in found)
