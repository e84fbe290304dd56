"""Batches are filled up to enough rows; that nothing depends on them is in test_generation.py and test_completion.py."""

import pytest
import torch

from moldiff.one_size import filled_rows, flushes_denormals, inference


@pytest.mark.parametrize(
    ("count", "atoms", "rows"), [(2, 9, [0, 1, 0, 0]), (1, 32, [0]), (1, 31, [0, 0]), (5, 9, [*range(5)])]
)
def test_the_first_row_is_repeated_until_there_are_32_atoms(count, atoms, rows):
    assert filled_rows(count, atoms) == rows


def test_inference_leaves_the_settings_as_they_were():
    threads = torch.get_num_threads()
    torch.set_flush_denormal(False)
    with inference():
        assert torch.get_num_threads() == 1
        assert torch.is_inference_mode_enabled()
        assert flushes_denormals() or not torch.set_flush_denormal(True)  # not every processor can
    assert torch.get_num_threads() == threads
    assert not flushes_denormals()
