"""Batches are filled up to enough rows; that nothing depends on them is in test_generation.py and test_completion.py."""

import pytest

from moldiff.one_size import filled_rows


@pytest.mark.parametrize(
    ("count", "atoms", "rows"), [(2, 9, [0, 1, 0, 0]), (1, 32, [0]), (1, 31, [0, 0]), (5, 9, [*range(5)])]
)
def test_the_first_row_is_repeated_until_there_are_32_atoms(count, atoms, rows):
    assert filled_rows(count, atoms) == rows
