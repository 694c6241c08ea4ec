"""Cross-entropy behind a language-model head without the table of logits: a few hundred rows of it exist at a time.

The gradient is made in the forward pass, while the logits of a block are there, and only scaled in the backward pass: three
products with the head, as many as with the whole table.

Source: Wijmans et al. 2024 (Cut Your Losses, arXiv 2411.09009), Hsu et al. 2024 (Liger Kernel, arXiv 2410.10989) for the idea.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.metrics.step_reconstruction import LOGITS


def head_nll(
    states: Float[Tensor, "row d_model"], head: Float[Tensor, "vocab d_model"], targets: Int[Tensor, " row"]
) -> Float[Tensor, ""]:
    """Σ over rows of −log softmax(states headᵀ)[target], in nats, float32.

    Products run in the autocast dtype where autocast is on; logits, their sums and the sum of the gradient of the head are float32.
    """
    return _HeadNLL.apply(states, head, targets)  # type: ignore[return-value]  # apply is untyped


class _HeadNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        device = states.device.type
        reduced = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        wanted = ctx.needs_input_grad
        total = states.new_zeros((), dtype=torch.float32)
        grad_states = torch.empty_like(states) if wanted[0] else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if wanted[1] else None
        with torch.autocast(device, enabled=False):
            narrow = head.to(reduced)
            block = max(1, LOGITS // len(head))
            for first in range(0, len(states), block):
                rows = slice(first, first + block)
                part, aimed = states[rows].to(reduced), targets[rows, None]
                logits = (part @ narrow.T).float()
                norm = logits.logsumexp(1, keepdim=True)
                total += (norm - logits.gather(1, aimed)).sum()
                if not any(wanted):
                    continue
                slope = logits.sub_(norm).exp_().scatter_add_(1, aimed, -torch.ones_like(norm)).to(reduced)
                if grad_states is not None:
                    grad_states[rows] = slope @ narrow
                if grad_head is not None:
                    grad_head += slope.T @ part
        ctx.save_for_backward(grad_states, grad_head)
        ctx.head_dtype = head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_head = ctx.saved_tensors
        scale = grads[0]
        return (
            None if grad_states is None else grad_states * scale.to(grad_states.dtype),
            None if grad_head is None else (grad_head * scale).to(ctx.head_dtype),
            None,
        )
