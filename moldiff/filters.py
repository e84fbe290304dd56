"""Conditions on scores, written as an expression: ``QED>0.6 and SA<3.5 and alerts==0``.

Python's parser reads it; every piece is then checked against the few that are allowed, and nothing is ever run as code.
"""

import ast
import difflib
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from moldiff.errors import RequestError

_COMPARE = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
_EXAMPLE = "write comparisons such as QED>0.6 or 0.3<SA<=4, joined by and, or, not"
LONGEST = 1000  # characters of an expression


@dataclass(frozen=True)
class Condition:
    """A piece of a filter between its outermost ``and``; ``text`` as it was written."""

    text: str
    tree: ast.expr = field(repr=False, compare=False)

    def met(self, values: Mapping[str, Any]) -> bool:
        """Whether it holds for these numbers by score; None is an unknown one, and what depends on it does not hold."""
        return _truth(self.tree, values) is True


@dataclass(frozen=True)
class Filter:
    """All of ``conditions``, from left to right; the same one twice counts once."""

    text: str
    conditions: tuple[Condition, ...] = field(repr=False, compare=False)

    @property
    def scores(self) -> tuple[str, ...]:
        """Those that it names, each once."""
        nodes = (node for condition in self.conditions for node in ast.walk(condition.tree))
        return tuple(dict.fromkeys(node.id for node in nodes if isinstance(node, ast.Name)))

    def failed(self, values: Mapping[str, Any]) -> Condition | None:
        """The first condition that is not met, and None if all are."""
        return next((condition for condition in self.conditions if not condition.met(values)), None)


def read_filter(text: str, names: Mapping[str, str], meanings: Mapping[str, str], more: str = "") -> Filter:
    """The filter that ``text`` stands for.

    ``names``: what may be written, in lower case, and the score it means; ``meanings``: of the scores, for the error, which
    ends with what ``more`` other requests have. Upper and lower case are the same. Allowed are < <= > >= == != (also in
    chains), and, or, not, parentheses, numbers.

    Raises:
        RequestError: anything else, naming the piece; or an unknown name, with those nearest to it and all that are known,
            explained where none is near.
    """
    try:
        return Filter(text, tuple(_conditions(text, names)))
    except _UnknownName as error:
        shown = {name: score if score.lower() == name else name for name, score in names.items()}
        explained = {name: f"{shown[name]} ({meanings[score]})" for name, score in names.items()}
        near = difflib.get_close_matches(str(error).lower(), names)
        meant = f"did you mean {' or '.join(map(explained.get, near))}? " if near else ""
        known = ", ".join((shown if near else explained).values())
        raise RequestError(
            f"--filter {_short(text)!r}: {meant}there is no score {error}; there are {known}{more}"
        ) from error
    except (_Refused, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else error
        raise RequestError(f"--filter {_short(text)!r}: {reason}; {_EXAMPLE}") from error


class _Refused(ValueError):
    """The piece, and what is wrong with it."""


class _UnknownName(ValueError):
    """The name."""


def _conditions(text: str, names: Mapping[str, str]) -> Iterator[Condition]:
    if len(text) > LONGEST:
        raise _Refused(f"longer than {LONGEST} characters")
    source = re.sub(r"\b(and|or|not)\b", lambda word: word[0].lower(), " ".join(text.split()), flags=re.IGNORECASE)
    tree = _parse(source)
    seen = set()
    for node in _pieces(tree):
        piece = ast.get_source_segment(source, node)
        checked = _Reader(source, names).condition(node)
        if piece not in seen:
            seen.add(piece)
            yield Condition(piece, checked)


def _parse(source: str) -> ast.expr:
    if not source:
        raise _Refused("is empty")
    if "#" in source:
        raise _Refused("# is not allowed")  # Python would read no further
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as a number that runs into a word
            return ast.parse(source, "filter", mode="eval").body
    except (SyntaxError, ValueError, MemoryError) as error:
        rest = _short(source[error.offset - 1 :]) if isinstance(error, SyntaxError) and error.offset else ""
        place = f" at {rest!r}" if rest else ""
        hint = ", equality is ==" if re.search(r"(?<![<>=!])=(?!=)", source) else ""
        raise _Refused(f"is not an expression{place}{hint}") from error


def _pieces(node: ast.expr) -> Iterator[ast.expr]:
    """What the outermost ``and`` joins."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values:
            yield from _pieces(value)
    else:
        yield node


@dataclass
class _Reader:
    """Copies a tree of allowed pieces, with scores in the place of names, and refuses any other."""

    source: str
    names: Mapping[str, str]

    def condition(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.BoolOp(op, values):
                return ast.BoolOp(op, [self.condition(value) for value in values])
            case ast.UnaryOp(ast.Not(), operand):
                return ast.UnaryOp(ast.Not(), self.condition(operand))
            case ast.Compare(left, ops, comparators):
                for op in ops:
                    if type(op) not in _COMPARE:
                        raise self.refused(node, "is no comparison of numbers")
                return ast.Compare(self.operand(left), ops, [self.operand(each) for each in comparators])
            case ast.Name() | ast.Constant():
                self.operand(node)  # an unknown name, or a text, is the more important complaint
                raise self.refused(node, "is no condition by itself")
        raise self.refused(node, "is not allowed")

    def operand(self, node: ast.expr) -> ast.Name | ast.Constant:
        match node:
            case ast.Name(name):
                if name.lower() not in self.names:
                    raise _UnknownName(_short(name))
                return ast.Name(self.names[name.lower()])
            case ast.Constant(int() | float() as value) if not isinstance(value, bool):
                return ast.Constant(value)
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)) if not isinstance(value, bool):
                return ast.Constant(-value)
        raise self.refused(node, "is neither a number nor a score")

    def refused(self, node: ast.expr, why: str) -> _Refused:
        return _Refused(f"{_short(ast.get_source_segment(self.source, node))} {why}")


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"


def _truth(node: ast.expr, values: Mapping[str, Any]) -> bool | None:
    """Three-valued: None where the truth depends on a value that is not known (Kleene's logic)."""
    match node:
        case ast.BoolOp(op, parts):
            decisive, truths = isinstance(op, ast.Or), []
            for part in parts:
                truths.append(_truth(part, values))
                if truths[-1] is decisive:
                    return decisive
            return None if None in truths else not decisive
        case ast.UnaryOp(_, operand):
            truth = _truth(operand, values)
            return None if truth is None else not truth
    operands = [values[o.id] if isinstance(o, ast.Name) else o.value for o in (node.left, *node.comparators)]
    if None in operands:
        return None
    return all(_COMPARE[type(op)](a, b) for op, (a, b) in zip(node.ops, pairwise(operands), strict=True))
