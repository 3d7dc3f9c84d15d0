"""What is compiled learns as what is not."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model, tiny_sample
from training.train import compiler


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler with Python's headers: apt-get install g++ python3-dev")
def test_compiled_the_losses_and_gradients_are_the_same():
    """For two lengths of sound."""
    model, processor, _ = tiny_model()
    rng = np.random.default_rng(0)
    batches = [processor([tiny_sample(rng, 2, seconds) for _ in range(2)]) for seconds in (2.0, 3.0)]

    def learned(batch):
        torch.manual_seed(0)
        model.zero_grad()
        losses = model(batch)
        sum(losses.values()).backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return torch.cat([torch.stack(list(losses.values())), *grads]).detach()

    plain = [learned(batch) for batch in batches]
    model.compile_busiest()
    torch._dynamo.utils.counters.clear()
    for batch, expected in zip(batches, plain):
        torch.testing.assert_close(learned(batch), expected, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2 + len(model.backbone.layers)
