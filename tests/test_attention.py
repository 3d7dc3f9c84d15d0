import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from agent.attention import TransformerLayer, attention

SIZES = st.integers(1, 5)


@given(SIZES, SIZES, SIZES, SIZES, st.integers(0, 999))
def test_it_is_the_fused_attention(rows, heads, queries, keys, seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(rows, heads, count, 4) for count in (queries, keys, keys))
    visible = torch.rand(rows, 1, queries, keys) < 0.6
    visible[..., 0] = True
    for mask in (None, visible):
        fused = nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention(q, k, v, mask), fused)
        with torch.no_grad():
            torch.testing.assert_close(attention(q, k, v, mask), fused)


def test_who_sees_nothing_looks_everywhere_alike():
    v = torch.randn(1, 1, 3, 4)
    out = attention(torch.randn(1, 1, 2, 4), torch.randn(1, 1, 3, 4), v, torch.zeros(1, 1, 2, 3, dtype=torch.bool))
    torch.testing.assert_close(out, v.mean(2).expand(1, 2, 4))


@given(st.booleans(), st.integers(0, 999))
def test_the_layer_is_pytorchs_in_what_it_gives_and_in_its_gradients(padded, seed):
    torch.manual_seed(seed)
    theirs = nn.TransformerEncoderLayer(16, 4, 32, 0.0, nn.functional.gelu, batch_first=True, norm_first=True)
    ours = TransformerLayer(16, 4, 32, 0.0, nn.functional.gelu, batch_first=True, norm_first=True)
    ours.load_state_dict(theirs.state_dict())
    hidden = torch.rand(3, 6) < 0.3 if padded else None
    if padded:
        hidden[:, 0] = False
    x = torch.randn(3, 6, 16, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    out, same = ours(x, src_key_padding_mask=hidden), theirs(y, src_key_padding_mask=hidden)
    torch.testing.assert_close(out, same)
    out.square().sum().backward()
    same.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
