"""What moves the weights: AdamW, or Muon for the hidden matrices and AdamW for the rest."""

from __future__ import annotations

import math
from typing import Callable, Iterable

import torch
from torch import Tensor, distributed, nn
from torch.optim import AdamW, Optimizer

KINDS = ("adamw", "muon")
SMALLEST = 32  # side of a matrix that Muon moves; inlets of a few numbers, and LoRA's, are AdamW's


class Muon(Optimizer):
    """Momentum made orthogonal (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks").

    The step is scaled to the size of AdamW's, as in Liu et al. 2025 ("Muon is scalable for LLM training", section 2.2), so
    that one learning rate serves both. Unlike torch.optim.Muon it takes matrices of one shape together, which saves a
    third of the time for a small model, and computes in fp32 where the processor has no fast bf16.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.0, momentum: float = 0.95,
                 dtype: torch.dtype = torch.bfloat16):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        wrong = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim != 2]
        if wrong:
            raise ValueError(f"Muon moves matrices; these have other shapes: {wrong}")
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            self.move(params, group["lr"], group["weight_decay"], group["momentum"])
        return loss

    def move(self, params: list[Tensor], rate: float, decay: float, momentum: float) -> None:
        """One step of some matrices: decoupled decay, Nesterov's momentum, made orthogonal."""
        if not params:
            return
        grads = [p.grad for p in params]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        kept = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(kept, grads, 1 - momentum)
        ways = self.ways(torch._foreach_lerp(grads, kept, momentum))
        torch._foreach_mul_(ways, [-rate * 0.2 * math.sqrt(max(p.shape)) for p in params])
        torch._foreach_mul_(params, 1 - rate * decay)
        torch._foreach_add_(params, ways)

    def ways(self, ahead: list[Tensor]) -> list[Tensor]:
        """The matrices made orthogonal; of several processes that train together each does a part, and all get all."""
        rank, count = place()
        order = sorted(range(len(ahead)), key=lambda i: ahead[i].shape)
        parts = [order[owner::count] for owner in range(count)]  # about as much work for each
        sizes = [[ahead[i].numel() for i in part] for part in parts]
        flat = [ahead[0].new_empty(sum(size), dtype=self.dtype) for size in sizes]
        for way, x in zip(flat[rank].split(sizes[rank]), alike_together([ahead[i] for i in parts[rank]], self.dtype)):
            way.copy_(x.flatten())
        ways: dict[int, Tensor] = {}
        for owner, part in enumerate(parts):
            if count > 1:
                distributed.broadcast(flat[owner], owner)
            ways |= {i: way.view_as(ahead[i]).to(ahead[i].dtype) for i, way in zip(part, flat[owner].split(sizes[owner]))}
        return [ways[i] for i in range(len(ahead))]


def place() -> tuple[int, int]:
    """This process's number among those that train together, and how many these are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def alike_together(matrices: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Each matrix made orthogonal, those of one shape at once."""
    alike: dict[torch.Size, list[int]] = {}
    for i, x in enumerate(matrices):
        alike.setdefault(x.shape, []).append(i)
    ways: dict[int, Tensor] = {}
    for indices in alike.values():
        ways |= zip(indices, orthogonal(torch.stack([matrices[i] for i in indices]).to(dtype)))
    return [ways[i] for i in range(len(matrices))]


def orthogonal(x: Tensor, iterations: int = 5) -> Tensor:
    """About U V' of each matrix U S V' in x (n, rows, columns), by the Newton-Schulz iteration of Jordan et al. 2024: every
    singular value that is not tiny beside its matrix's norm comes to between 0.6 and 1.3."""
    if x.shape[1] > x.shape[2]:
        return orthogonal(x.mT, iterations).mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained matrices between the model's inputs and outputs: neither an embedding's nor a head's nor a narrow one."""
    outer = {id(p) for name, module in model.named_modules() for p in module.parameters()
             if isinstance(module, nn.Embedding) or name.endswith(("head", "heads"))}
    return [p for p in model.parameters()
            if p.requires_grad and p.ndim == 2 and min(p.shape) >= SMALLEST and id(p) not in outer]


def optimizers(model: nn.Module, kind: str, rate: float, decay: float, fast_bf16: bool) -> list[Optimizer]:
    """AdamW for what is trained of the model, or ("muon") Muon for its hidden matrices and AdamW for the rest; weight decay
    for matrices and filters."""
    hidden = hidden_matrices(model) if kind == "muon" else []
    taken = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    groups = [{"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
              {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}]
    adamw = AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-8, fused=True)
    if not hidden:
        return [adamw]
    return [adamw, Muon(hidden, rate, decay, dtype=torch.bfloat16 if fast_bf16 else torch.float32)]
