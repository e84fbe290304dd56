"""The report for human review: what it says, that nothing of the file can act in it, and that a browser can use it."""

import base64
import dataclasses
import hashlib
import json
import math
import re
import shutil
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import escape
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from moldiff import chem, html
from moldiff.citations import bibtex
from moldiff.cli import app
from moldiff.datasets.records import Record
from moldiff.html import composition, sources
from moldiff.html.columns import KNOWN, columns
from moldiff.html.drawing import draw, draw_smiles, mol_block
from moldiff.html.maker import maker_of
from moldiff.html.plots import HEIGHT, histogram
from moldiff.metrics import Evaluation
from moldiff.report import FileEvaluation, evaluate_file
from moldiff.weights import shipped_models

QUICK = {"strain": 0, "posebusters": 0, "fcd": False}
HOSTILE = "<script>alert(1)</script>"
FILE = 'a"><img src=x onerror=alert(2)>.sdf'
DRUGS = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CC(=O)Nc1ccc(O)cc1"]


def record(smiles: str, name: str, **tags: object) -> str:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return chem.sdf_record(mol, name, tags)


def pentavalent() -> str:
    mol = Chem.RWMol(Chem.AddHs(Chem.MolFromSmiles("C")))
    mol.AddBond(0, mol.AddAtom(Chem.Atom("F")), Chem.BondType.SINGLE)
    AllChem.Compute2DCoords(mol)
    mol.GetConformer().Set3D(True)
    return chem.sdf_record(mol, "too many bonds", {})


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> FileEvaluation:
    """Six records: two alike, one with a hostile name, a salt of two fragments, one not valid, one not readable."""
    folder = tmp_path_factory.mktemp("html")
    texts = [record("CCO", "ethanol"), record("CCO", "ethanol again"), record("C1CC1C#N", HOSTILE),
             record("[NH4+].[Cl-]", "salt"), pentavalent(), "broken\n\n\nnothing\n$$$$\n"]  # fmt: skip
    (folder / FILE.replace("/", "")).write_text("".join(texts))
    (folder / "known.smi").write_text("CCO\nCCC\nc1ccccc1\n")
    found = evaluate_file(folder / FILE.replace("/", ""), folder / "known.smi", **QUICK)
    nearest = ["CCO", "CCO", "CCC", None, None, None]
    similarity = [1, 1, 0.2, math.nan, math.nan, math.nan]
    extra = {"nearest": nearest, "nearest_similarity": similarity, "alerts": [HOSTILE] * 6}
    told = Evaluation(found.evaluation.metrics, found.table.assign(**extra))
    return dataclasses.replace(found, evaluation=told, notes=(*found.notes, f"a note {HOSTILE}"))


@pytest.fixture(scope="module")
def page(evaluation) -> str:
    return html.render_html(evaluation)


def packed(page: str) -> dict:
    return json.loads(zlib.decompress(base64.b64decode(re.search(r'id="packed">([^<]*)<', page)[1])))


class Tags(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def test_text_of_the_file_is_never_markup(page):
    found = Tags(page)
    assert [tag for tag, _ in found.tags].count("script") == 4  # packed molecules, 3Dmol, the page's own two
    assert "alert(1)" not in "".join(found.scripts) and "<script>alert" not in page
    assert "<img" not in page.partition("<script")[0]
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert packed(page)["id"][2] == HOSTILE  # and yet it is all there
    assert "&lt;script&gt;alert(1)" in page and "&lt;img src=x" in page


def test_only_its_own_scripts_may_run_and_nothing_is_loaded(page):
    found = Tags(page)
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none';") and "unsafe-inline' ;" not in policy
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found.scripts[1:]}
    assert set(re.findall(r"'sha256-([^']*)'", policy)) == hashes
    for tag, attributes in found.tags:
        assert "src" not in attributes and "srcset" not in attributes
        if tag != "a" and "href" in attributes:
            assert attributes["href"] == "data:,"
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "Redistribution and use in source and binary forms" in page  # what 3Dmol's licence asks for
    assert "url(" not in style and "@import" not in style


def test_equal_evaluations_give_equal_bytes(evaluation, page, tmp_path):
    html.write_html(evaluation, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == page.encode()
    assert str(evaluation.file.parent) not in page


def test_a_thousand_drug_molecules_fit_into_ten_megabytes(tmp_path):
    sizes = []
    for n in (20, 60):
        file = tmp_path / f"{n}.sdf"
        file.write_text("".join(record(DRUGS[k % 4] + "C" * (k % 7), f"molecule {k}") for k in range(n)))
        sizes.append(len(html.render_html(evaluate_file(file, **QUICK))))
    assert sizes[0] + (sizes[1] - sizes[0]) / 40 * 1000 < 10e6
    assert sizes[0] < 0.75e6


def test_every_record_is_there_as_it_was(evaluation, page):
    content = packed(page)
    assert content["record"] == [1, 2, 3, 4, 5, 6]
    assert content["smiles"][:4] == ["CCO", "CCO", "N#CC1CC1", "[Cl-].[NH4+]"]
    assert [bool(block) for block in content["block"]] == [True] * 5 + [False]
    assert content["spatial"] == [True] * 5 + [False] and content["nearest"][3] is None
    written = Chem.SDMolSupplier(str(evaluation.file), removeHs=False)[0]
    again = Chem.MolFromMolBlock(content["block"][0], removeHs=False)
    assert again.GetProp("_Name") == "ethanol"
    assert again.GetConformer().GetPositions() == pytest.approx(written.GetConformer().GetPositions())
    assert all(content["drawing"][:5]) and content["known"].keys() == {"CCO", "CCC"}


def test_the_funnel_and_what_a_metric_says(evaluation, page):
    stages = {name: count for name, count, _ in html.facts(evaluation, maker_of([]))["funnel"]}
    assert stages == {"all": 6, "readable": 5, "valid": 4, "connected": 3, "unique": 2, "novel": 1}
    for metric in evaluation.evaluation.metrics:
        assert escape(metric.definition) in page
    assert evaluation.sha256 in page and "a note &lt;script" in page


@pytest.mark.parametrize(("protocol", "left", "population"), [
    ("moses", {"valid": 4, "unique": 4, "novel": 3}, "valid"),
    ("model-bonds", {"valid": 3, "connected": 2, "unique": 2, "novel": 1}, "valid and connected"),
])  # fmt: skip
def test_the_command_s_report_follows_the_protocol(tmp_path, protocol, left, population):
    """The nitro group is mended by RDKit's clean-up, which is MOSES' rule and no other's."""
    (tmp_path / "a.smi").write_text("CN(=O)=O\nCCO\nCc1ccccc1\nC.O\n")
    (tmp_path / "known.smi").write_text("CCO\n")
    options = ["--reference", tmp_path / "known.smi", "--no-fcd", "--report", tmp_path / "a.html"]
    result = CliRunner().invoke(app, ["evaluate", *map(str, [tmp_path / "a.smi", "--protocol", protocol, *options])])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "a.html").read_text()
    table = re.search(r'<table class="funnel">.*?</table>', page, re.DOTALL)[0]
    rows = re.findall(r'<th scope="row">([a-z]+)<.*?<td class="number">(\d+)<', table, re.DOTALL)
    assert {name: int(count) for name, count in rows} == {"all": 4, "readable": 4, **left}
    assert f'<option value="whole">{population}</option>' in page
    assert f"<p>{population.capitalize()} molecules of the file" in page


def test_bonds_from_distances_are_judged_as_such(tmp_path):
    (tmp_path / "a.xyz").write_text("3\n\nO 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n2\n\nO 0 0 0\nH 0 0 3\n")
    stages = html.facts(evaluate_file(tmp_path / "a.xyz"), maker_of([]))["funnel"]
    assert [(name, count) for name, count, _ in stages] == [
        ("all", 2), ("readable", 2), ("valid", 2), ("connected", 1), ("unique", 1),
    ]  # fmt: skip
    assert stages[2][2].endswith("bonds from distances")


def test_without_a_reference_nothing_is_claimed_of_one(evaluation):
    alone = html.render_html(evaluate_file(evaluation.file, **QUICK))
    assert "No reference was given" in alone and "Over-represented" not in alone


def test_a_cut_list_says_so(evaluation, page, monkeypatch):
    assert "holds the first" not in page
    monkeypatch.setattr("moldiff.html.MAX_MOLECULES", 2)
    monkeypatch.setattr("moldiff.html.molecules.MAX_MOLECULES", 2)
    cut = html.render_html(evaluation)
    assert "holds the first 2 of 6 records" in cut and packed(cut)["record"] == [1, 2]


def test_columns_of_any_kind():
    table = pd.DataFrame({
        "record": [1, 2], "whole": [1.0, math.nan], "share": [0.5, math.inf], "flag": pd.array([True, None], "boolean"),
        "text": ["b; a", ""], "empty": [None, None], "qed": [0.123456789, 1.0], "edm_valid": [True, False],
    })  # fmt: skip
    found = {column.key: column for column in columns(table)}
    assert list(found) == ["qed", "whole", "share", "flag", "text", "edm_valid"]
    assert found["qed"].values == [0.123457, 1.0] and found["qed"].label == "QED"
    assert (found["whole"].kind, found["whole"].digits, found["whole"].values) == ("number", 0, [1.0, None])
    assert found["share"].values == [0.5, None]
    assert (found["flag"].kind, found["flag"].values) == ("flag", [True, None])
    assert found["text"].values == ["b; a", ""]
    assert [key for key, column in found.items() if not column.shown] == ["edm_valid"]


@pytest.mark.parametrize(("smiles", "letters"), [("CCO", "OH"), ("C[N+](C)(C)C", "N+"), ("[Na+].[Cl-]", "Na+Cl-")])
def test_drawings_show_the_letters(smiles, letters):
    assert sorted("".join(re.findall(r">([^<>]+)</text>", draw_smiles(smiles)))) == sorted(letters)


def test_drawings_of_what_is_not_valid():
    mol = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    before = Chem.MolToSmiles(mol)
    assert draw(mol).count("M") == 5 and Chem.MolToSmiles(mol) == before
    radical = Chem.MolFromSmiles("[CH3]")
    assert draw(Chem.AddHs(radical)) != draw(Chem.AddHs(Chem.MolFromSmiles("C")))
    assert draw(None) == draw(Chem.Mol()) == draw_smiles("C1C") == ""
    assert draw_smiles("c1cccc1")  # a piece that has no Kekulé structure


def test_a_drawing_holds_no_text_of_the_file():
    mol = Chem.AddHs(Chem.MolFromSmiles("CC"))
    for key in ("molFileAlias", "atomLabel", "_displayLabel", "atomNote"):
        mol.GetAtomWithIdx(0).SetProp(key, HOSTILE)
    assert "alert" not in draw(mol)


def test_a_molecule_without_coordinates_is_exported_in_the_plane():
    block = mol_block(Chem.AddHs(Chem.MolFromSmiles("CCO")), "flat")
    assert block.startswith("flat\n") and "2D" in block.splitlines()[1]
    assert Chem.MolFromMolBlock(block).GetNumAtoms() == 3


def test_aromatic_smiles_are_exported_whether_they_have_a_kekule_structure_or_not():
    for smiles in ("Cc1ccccc1", "c1ccncc1", "Oc1ccc(cc1)-c1ccccn1"):
        block = mol_block(Record(1, "", "", "smiles", smiles).read()[0], "flat")
        assert Chem.MolToSmiles(Chem.MolFromMolBlock(block)) == Chem.CanonSmiles(smiles)
    without = mol_block(Record(1, "", "", "smiles", "c1cccc1").read()[0], "flat")
    bonds = Chem.MolFromMolBlock(without, sanitize=False).GetBonds()
    assert [bond.GetBondType() for bond in bonds] == [Chem.BondType.AROMATIC] * 5


def test_shares_find_what_differs_and_only_that():
    here = composition.composition_of(["C#CC", "C#CCC", "CCO", "C1CC1"] * 25 + ["not a SMILES"])
    there = composition.composition_of(["CC", "CCC", "CCO", "C1CC1"] * 25)
    assert (here.n, there.n) == (100, 100)
    rows = {(row.kind, row.name): row for row in composition.shares(here, there)}
    assert {name for (_, name), row in rows.items() if row.differs} == {"alkyne"}
    assert rows["group", "alkyne"].here == 0.5 and rows["group", "alkyne"].ratio == math.inf
    assert rows["ring system", "C1CC1"].ratio == 1
    assert not any(row.differs or row.there is not None for row in composition.shares(here, None))


@pytest.mark.parametrize(
    ("smiles", "group"),
    [("CCO", "alcohol"), ("Oc1ccccc1", "phenol or enol"), ("COC", "ether"), ("C1CO1", "epoxide"), ("CC=O", "aldehyde"),
     ("CC(C)=O", "ketone"), ("CC(=O)O", "carboxylic acid"), ("CC(=O)OC", "ester"), ("CC(=O)N", "amide"),
     ("NC(=O)N", "urea"), ("CN", "primary amine"), ("CNC", "secondary amine"), ("CN(C)C", "tertiary amine"),
     ("CC=NC", "imine"), ("CC=NO", "oxime"), ("CC#N", "nitrile"), ("C#C", "alkyne"), ("C=C", "alkene"),
     ("C[N+](=O)[O-]", "nitro"), ("CS(=O)(=O)N", "sulfonamide"), ("CF", "fluorine on carbon"), ("C1CN1", "aziridine")],
)  # fmt: skip
def test_functional_groups(smiles, group):
    assert ("group", group) in composition.composition_of([smiles]).features


@pytest.mark.parametrize("smiles", ["CC", "C1CCCCC1", "c1ccccc1"])
def test_hydrocarbons_have_no_heteroatomic_group(smiles):
    groups = {name for kind, name in composition.composition_of([smiles]).features if kind == "group"}
    assert groups <= {"aromatic ring"}


def test_the_sample_of_a_reference_does_not_depend_on_its_order():
    smiles = [f"C{'C' * k}O" for k in range(100)]
    assert composition.sample(smiles, 10) == composition.sample(smiles[::-1], 10)
    assert len(composition.sample(smiles * 2, 1000)) == 100


def test_histograms():
    plot = histogram("Rings", [0.0, 1.0, 1.0, 2.0], [1.0] * 4)
    assert [bar.label for bar in plot.bars] == [
        "0: 25.0 %, reference 0.0 %", "1: 50.0 %, reference 100.0 %", "2: 25.0 %, reference 0.0 %",
    ]  # fmt: skip
    assert [bar.height for bar in plot.bars] == pytest.approx([HEIGHT / 4, HEIGHT / 2, HEIGHT / 4])
    assert [text for _, text in plot.ticks] == ["0", "1", "2"]
    assert plot.summary == "median 1, reference 1"
    assert [text for _, text in histogram("a bad one", [1.0, 2.0, 2e10]).ticks][:2] == ["5e+09", "1e+10"]
    assert histogram("nothing", [math.nan]) is None
    assert histogram("one value", [0.3] * 5).bars[0].height == HEIGHT


def test_the_maker_is_known_only_by_its_weights():
    if "qm9" not in shipped_models():
        pytest.skip("no weights in the package")
    from moldiff.model import Model

    path = shipped_models()["qm9"]
    weights = Model.load(path).sha256
    known = maker_of([(path.stem, weights)] * 3)
    assert (known.molecules, known.data.heavy_range, known.others) == (99_997, (2, 9), False)
    assert known.commonest_size[0] == 9 and known.heavy_shares[0][0] == "C"
    assert maker_of([(path.stem, "0" * 64)]).data is None
    assert maker_of([("", ""), ("other", "1")]).others
    assert maker_of([("", "")]) == maker_of([]) and not maker_of([]).name


def test_sources_are_cited():
    missing = {known.source for known in KNOWN.values() if known.source} - set(re.findall(r"doi = \{(.*?)\}", bibtex()))
    assert missing == set()
    keys = set(re.findall(r"^@\w+\{(\w+),", bibtex(), re.MULTILINE))
    assert keys >= sources.ALWAYS | set(sources.OF_METRICS.values())
    texts = [s.text for s in sources.sources_of(["fcd"], ["10.1038/sdata.2014.22"])]
    assert any(text.startswith("Preuer, Renz, Unterthiner et al. Fréchet ChemNet Distance") for text in texts)
    assert any("134 kilo molecules" in text for text in texts)
    assert not any("Neural" in text for text in texts)
    assert any(text.endswith("et al. RDKit: Open-source cheminformatics.") for text in texts)


# --- in a browser ---

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--no-sandbox"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, with moldiff[test]")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def opened(browser, evaluation, tmp_path):
    """The report in a fresh browser profile; what it asks for and complains about is in ``requests`` and ``problems``."""
    html.write_html(evaluation, tmp_path / "report.html")
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.requests, tab.problems = [], []
    tab.on("request", lambda r: tab.requests.append(r.url))
    tab.on("console", lambda m: tab.problems.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda e: tab.problems.append(str(e)))
    tab.on("dialog", lambda d: (tab.problems.append(d.message), d.accept()))
    tab.goto((tmp_path / "report.html").as_uri())
    tab.wait_for_selector("#rows tr")
    yield tab
    context.close()


def names(tab) -> list[str]:
    return tab.locator("#rows .name button").all_text_contents()


def exported(tab, button: str) -> str:
    with tab.expect_download() as download:
        tab.click(f"#{button}")
    return Path(download.value.path()).read_text()


def test_in_a_browser_nothing_is_asked_for_and_nothing_goes_wrong(opened):
    assert names(opened)[2] == HOSTILE and len(names(opened)) == 6
    foreign = [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert (foreign, opened.problems) == ([], [])
    opened.set_viewport_size({"width": 390, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_in_a_browser_the_viewer_shows_the_selected_molecule(opened):
    colours = """() => { const c = document.querySelector("#viewer canvas"), o = new OffscreenCanvas(c.width, c.height);
        const g = o.getContext("2d"); g.drawImage(c, 0, 0);
        return new Set(new Uint32Array(g.getImageData(0, 0, c.width, c.height).data.buffer)).size; }"""
    opened.locator("#rows tr").nth(2).click()
    assert opened.text_content("#detail-title") == HOSTILE
    assert opened.evaluate("() => { viewer.render(); return (" + colours + ")(); }") > 50
    opened.locator("#rows tr").nth(5).click()
    assert "no coordinates" in opened.text_content("#viewer-note")


def test_in_a_browser_rows_are_sorted_and_filtered(opened):
    opened.click("#head button:text-is('Molecule')")
    assert names(opened) == sorted(names(opened), key=str.lower)
    opened.click("#head button:text-is('Molecule')")
    assert names(opened)[-1] == HOSTILE
    opened.fill("#search", "ETHANOL again")
    assert names(opened) == ["ethanol again"]
    opened.fill("#search", "")
    opened.select_option("#status", "broken")
    assert set(names(opened)) == {"salt", "too many bonds", "broken"}
    opened.select_option("#status", "")
    opened.select_option("#limit", label="Similarity")
    opened.fill("#limits-set input >> nth=0", "0.9")
    assert set(names(opened)) == {"ethanol", "ethanol again"}
    opened.click("#limits-set button")
    assert len(names(opened)) == 6 and opened.problems == []


def test_in_a_browser_molecules_are_accepted_rejected_and_exported(opened):
    opened.locator("#rows input[data-decision=accept]").first.check()
    opened.locator("#rows tr").nth(1).click()
    opened.keyboard.press("r")  # rejects, and goes on to the third
    opened.keyboard.press("a")
    opened.keyboard.press("k")
    opened.keyboard.press("c")
    opened.keyboard.type('ajar, "quoted"')
    opened.select_option("#sort", "id")  # sorting forgets nothing
    assert opened.text_content("#state") == "6 of 6 molecules · 2 accepted · 1 rejected"
    rows = pd.read_csv(pd.io.common.StringIO(exported(opened, "export-csv")))
    assert rows.columns.tolist() == ["record", "id", "smiles", "decision", "comment"]
    assert rows["decision"].tolist()[:2] == ["accepted", "rejected"] and rows["id"][2] == HOSTILE
    assert 'ajar, "quoted"' in rows["comment"].tolist()
    supplier = Chem.SDMolSupplier()
    supplier.SetData(exported(opened, "export-sdf"), removeHs=False)
    assert [mol.GetProp("_Name") for mol in supplier] == ["ethanol", HOSTILE]
    assert [mol.GetProp("record") for mol in supplier] == ["1", "3"]
    assert supplier[0].GetConformer().Is3D() and opened.problems == []
    opened.reload()
    opened.wait_for_selector("#rows tr")
    assert "2 accepted · 1 rejected" in opened.text_content("#state")
    opened.click("#clear")
    assert "0 accepted · 0 rejected" in opened.text_content("#state")
