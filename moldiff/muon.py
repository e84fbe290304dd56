"""Muon, with all matrices of one shape orthogonalised together: a deep network has many, and each is small."""

from collections import defaultdict

import torch
from torch import Tensor


class StackedMuon(torch.optim.Muon):
    """The updates of :class:`torch.optim.Muon` (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) with Nesterov
    momentum and step sizes that match AdamW's (Liu et al. 2025, arXiv 2502.16982).

    torch takes the matrices one by one: thousands of products too small for a GPU, or two CPU cores, to be busy with.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step with the gradients that there are."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in params]
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            updates = torch._foreach_lerp(grads, buffers, group["momentum"])
            alike: dict[torch.Size, list[int]] = defaultdict(list)
            for k, p in enumerate(params):
                alike[p.shape].append(k)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            for shape, members in alike.items():
                stack = torch.stack([updates[k] for k in members])
                stack = orthogonalised(stack, group["ns_coefficients"], group["ns_steps"], group["eps"]).to(stack)
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_add_([params[k] for k in members], list(stack), alpha=-rate)


def orthogonalised(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Each of the matrices (k, rows, columns) with its singular values brought near 1 by Newton–Schulz iterations.

    In bfloat16 as torch has it, but for a CPU: those that emulate it take ten times as long for it as for float32.
    """
    a, b, c = coefficients
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
