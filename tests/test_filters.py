"""The grammar of filters: what is true of which values, and that nothing but comparisons gets through."""

import re
from contextlib import suppress

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moldiff.errors import RequestError
from moldiff.filters import LONGEST, read_filter

MEANINGS = {"qed": "drug-likeness", "sa": "synthetic accessibility", "weight": "g/mol", "strain": "kcal/mol"}
NAMES = {name: name for name in MEANINGS} | {"mw": "weight"}
VALUES = {"qed": 0.7, "sa": 3.0, "weight": 120.5, "strain": None}


def kept(text: str, **values: float | None) -> bool:
    return read_filter(text, NAMES, MEANINGS).failed({**VALUES, **values}) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("QED>0.6", True), ("qed > 0.7", False), ("QED>=0.7", True), ("Qed<0.7", False), ("qed<=.7", True),
        ("SA==3", True), ("SA!=3", False), ("MW<350", True), ("0.3<QED<0.9", True), ("0.8<QED<0.9", False),
        ("QED<SA<MW", True), ("SA>-1", True), ("SA<1e-3", False), ("3>=SA", True), ("1<2", True),
        ("QED>0.6 and SA<3", False), ("QED>0.6 or SA<3", True), ("not QED>0.6", False), ("not (QED>0.9 or SA<3)", True),
        ("QED>0.9 and SA<3 or MW<350", True), ("QED>0.9 and (SA<3 or MW<350)", False), ("QED>0.6 AND NOT SA<3", True),
        ("  QED>0.6\n and SA<4 ", True),
    ],
)  # fmt: skip
def test_truth(text, expected):
    assert kept(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("strain<9", False), ("not strain<9", False), ("strain!=9", False), ("strain==strain", False),
        ("QED>0.6 or strain<9", True), ("QED>0.9 or strain<9", False), ("QED>0.6 and strain<9", False),
        ("not (QED>0.9 and strain<9)", True), ("not (QED>0.6 and strain<9)", False), ("0<strain<9", False),
    ],
)  # fmt: skip
def test_what_depends_on_an_unknown_value_does_not_hold(text, expected):
    assert kept(text) is expected


COMPARISON = st.builds("{}{}{}".format, st.sampled_from(["qed", "sa", "mw"]), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
                       st.sampled_from(["0", "0.5", "1"]))  # fmt: skip
EXPRESSION = st.recursive(
    COMPARISON,
    lambda inner: st.one_of(
        st.builds("not ({})".format, inner), st.builds("({}) and ({})".format, inner, inner),
        st.builds("({}) or ({})".format, inner, inner),
    ),
    max_leaves=6,
)  # fmt: skip


@given(EXPRESSION, st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1]))
def test_as_pandas_understands_it(text, qed, sa, weight):
    expected = pd.DataFrame({"qed": [qed], "sa": [sa], "mw": [weight]}).eval(text, engine="python")[0]
    assert kept(text, qed=qed, sa=sa, weight=weight) is bool(expected)


def test_the_conditions_are_named_as_they_were_written():
    found = read_filter("QED > 0.6 and (SA<3.5 or  MW<350) AND (mw<400 and QED<1) and QED > 0.6", NAMES, MEANINGS)
    assert [c.text for c in found.conditions] == ["QED > 0.6", "SA<3.5 or MW<350", "mw<400", "QED<1"]
    assert found.failed(VALUES) is None
    assert found.failed({**VALUES, "sa": 9, "weight": 900}).text == "SA<3.5 or MW<350"  # the first of two
    assert len(read_filter("QED>0.6 or SA<3", NAMES, MEANINGS).conditions) == 1


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("QED", "QED is no condition"), ("QED>0.6 and SA", "SA is no condition"), ("0.5", "0.5 is no condition"),
        ("QED>'a'", "'a' is neither"), ("'a'", "'a' is neither"), ("QED>True", "True is neither"), ("QED>2j", "2j is neither"),
        ("f(QED)>3", "f(QED) is neither"), ("__import__('os').system('ls')>1", "__import__('os').system('ls') is neither"),
        ("QED.real>3", "QED.real is neither"), ("QED[0]>3", "QED[0] is neither"), ("QED>3*2", "3*2 is neither"),
        ("QED>0.5 & SA<3", "0.5 & SA is neither"), ("QED>--1", "--1 is neither"), ("[1]<QED", "[1] is neither"),
        ("QED is 3", "QED is 3 is no comparison"), ("QED in (1,2)", "QED in (1,2) is no comparison"),
        ("QED>1 if SA else 3", "QED>1 if SA else 3 is not allowed"), ("lambda: 3", "lambda: 3 is not allowed"),
        ("(QED:=3)", "is not allowed"), ("QED=3", "is not an expression at '=3', equality is =="),
        ("QED>0.6 and", "is not an expression"), ("(QED>3", "is not an expression"), ("QED>3; import os", "at '; import os'"),
        ("QED≥0.6", "at '≥0.6'"), ("QED>0.9or SA<3", "is not an expression"), ("", "is empty"), ("  ", "is empty"),
        ("QED>0.6 # and SA<3", "# is not allowed"), ("QED\0>3", "is not an expression"),
        ("QED>" + "9" * LONGEST, "longer than 1000"), ("-" * 900 + "1<QED", "is neither"), ("(" * 400 + "QED>1", "is not an"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_its_piece(text, piece):
    with pytest.raises(RequestError) as error:
        read_filter(text, NAMES, MEANINGS)
    message = str(error.value)
    assert message.startswith("--filter ")
    assert piece in message
    assert "write comparisons such as QED>0.6" in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("text", ["logD>3", "QED>logD", "QED>0.6 and (SA<3 or logD<5)", "logD", "QED>nan"])
def test_an_unknown_name_lists_the_known(text):
    name = "nan" if "nan" in text else "logD"
    expected = (
        f"there is no score {name}; there are qed (drug-likeness), sa (synthetic accessibility), weight (g/mol), "
    )
    with pytest.raises(RequestError) as error:
        read_filter(text, NAMES, MEANINGS)
    assert f"{expected}strain (kcal/mol), mw (g/mol)" in str(error.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("wieght", "did you mean weight (g/mol)? "), ("QEDs", "did you mean qed (drug-likeness)? "), ("similarity", "")],
)
def test_the_nearest_names_come_first(name, meant):
    with pytest.raises(RequestError, match=re.escape(f"--filter '{name}>1': {meant}there is no score {name}; there")):
        read_filter(f"{name}>1", NAMES, MEANINGS)


@given(st.text(alphabet="QEDSAMWand ornt<>=!()0.9-+*'\"#;:[]{},@\\\n\t", max_size=40))
def test_whatever_is_written_is_read_or_refused(text):
    with suppress(RequestError):
        read_filter(text, NAMES, MEANINGS).failed(VALUES)
