import pytest
import torch

from moldiff.muon import StackedMuon

SHAPES = [(16, 8), (8, 16), (12, 12), (16, 8), (12, 12)]  # tall, wide and square, some alike


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_its_updates_are_those_of_torch(weight_decay, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # torch's own has it on every device
    random = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    stacked = StackedMuon(ours, lr=0.02, weight_decay=weight_decay)
    reference = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    before = [p.detach().clone() for p in ours]
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=random)
            b.grad = a.grad.clone()
        stacked.step()
        reference.step()
    for a, b, old in zip(ours, theirs, before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        assert (a - old).abs().mean() > 0.005


def test_its_state_is_that_of_torch_so_that_checkpoints_of_either_fit():
    weight = torch.nn.Parameter(torch.ones(4, 3))
    stacked = StackedMuon([weight], lr=0.01, weight_decay=0.0)
    weight.grad = torch.ones(4, 3)
    stacked.step()
    reference = torch.optim.Muon([weight], lr=0.01)
    reference.load_state_dict(stacked.state_dict())
    torch.testing.assert_close(reference.state[weight]["momentum_buffer"], torch.full((4, 3), 0.05))


def test_a_matrix_without_gradient_stays():
    moved, still = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    moved.grad = torch.ones(4, 3)
    StackedMuon([moved, still], lr=0.01, weight_decay=0.1).step()
    assert (still == 1).all() and (moved != 1).all()
