"""Features of distances."""

import torch

from moldiff.denoisers.layers import DistanceFeatures


def test_none_is_so_small_that_a_cpu_is_slow_with_it():
    line = torch.linspace(0, 40, 200)[None, :, None].expand(1, 200, 3).clone()
    line[..., 1:] = 0
    _, features = DistanceFeatures(16)(line)
    gaussians = features[..., :-1]
    # far from the least normal number, 1e-38, which products with weights and gradients must not reach; against 1, nothing
    assert 1e-30 < gaussians.min() < 1e-20


def test_each_is_greatest_at_its_own_distance():
    layer = DistanceFeatures(8)
    distance = -layer.centre[1:].log()  # the first lies at 6, the last at 0
    pos = torch.stack([torch.zeros(7, 3), torch.stack([distance, distance * 0, distance * 0], -1)], 1)
    _, features = layer(pos)
    assert (features[:, 0, 1, :-1].argmax(-1) == torch.arange(1, 8)).all()
