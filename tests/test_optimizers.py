"""What moves the weights: Muon's step is torch's and is orthogonal, each weight has one optimiser."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.little_workers import after_three_steps_of_muon, muon_together
from tests.tiny import tiny_model
from training.optimizers import Muon, hidden_matrices, optimizers, orthogonal
from training.workers import together


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_way_made_orthogonal_keeps_its_directions(n, rows, columns, seed):
    x = torch.randn(n, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    way = orthogonal(x)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    share = torch.einsum("nri,nrc,nic->ni", u, way, v)  # of each direction
    assert torch.allclose(way, u @ torch.diag_embed(share) @ v, atol=1e-5)
    large = s > 0.1 * s.norm(dim=1, keepdim=True)
    assert share.max() < 1.35 and share[large].min() > 0.5


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muon_takes_the_steps_of_the_library():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((48, 32), (32, 96), (48, 32))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    one = Muon(ours, 0.02, weight_decay=0.1, dtype=torch.bfloat16)
    other = torch.optim.Muon(theirs, 0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        one.step()
        other.step()
    for a, b in zip(ours, theirs):
        assert (a - b).abs().max() < 0.1 * 0.02  # of a step; bf16 adds in another order
    assert not torch.equal(ours[0], ours[2])


@pytest.mark.parametrize("processes, matrices", [(2, 5), (3, 2)])
def test_processes_that_share_muons_work_take_its_steps(tmp_path, processes, matrices):
    together(muon_together, (str(tmp_path), matrices), processes)
    alone = after_three_steps_of_muon(matrices)
    for rank in range(processes):
        for name, matrix in load_file(tmp_path / f"{rank}.st").items():
            torch.testing.assert_close(matrix, alone[name], rtol=1e-5, atol=1e-6)


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_every_weight_has_one_optimiser_and_heads_and_embeddings_are_adamws():
    model, _, _ = tiny_model()
    moved = [[p for group in o.param_groups for p in group["params"]] for o in optimizers(model, "muon", 1e-3, 0.05, False)]
    assert sum(map(len, moved)) == sum(p.requires_grad for p in model.parameters())
    assert len({id(p) for params in moved for p in params}) == sum(map(len, moved))
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = {names[id(p)] for p in moved[1]}
    assert by_muon == {names[id(p)] for p in hidden_matrices(model)} and by_muon
    assert not any("embed" in name or "head" in name for name in by_muon)
    assert any("self_attn" in name for name in by_muon) and any("mlp" in name for name in by_muon)
