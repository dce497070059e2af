"""The fused loss against plain autograd, its memory, and the nats of single targets."""

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.model.layers import softcap
from pipeline.model.loss import CHUNK_LOGITS, mean_nats, target_nats
from tests.networks import TINY, randomised

VOCAB_SIZE = 700
ROWS = CHUNK_LOGITS["cpu"] // VOCAB_SIZE


def head(dtype, num_targets, scale=4.0):
    """Return what the head reads, its matrix and the targets; the last chunk is a partial one."""
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(num_targets, 12, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight_VD = (scale * torch.randn(VOCAB_SIZE, 12, generator=generator, dtype=torch.float64)).to(dtype)
    return hidden_ND, weight_VD.requires_grad_(), torch.randint(VOCAB_SIZE, (num_targets,), generator=generator)


def plain_nats(hidden, weight_VD, targets, cap):
    return F.cross_entropy(softcap(F.linear(hidden, weight_VD), cap), targets, reduction="none")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("cap", [2.0, 30.0, 500.0])
def test_loss_and_gradients_equal_plain_autograd(dtype, tolerance, cap):
    hidden_ND, weight_VD, targets_N = head(dtype, 2 * ROWS + 5)
    # An upstream factor: the gradients are made before it is known.
    got, expected = (
        3 * mean_nats(hidden_ND, weight_VD, targets_N, cap),
        3 * plain_nats(hidden_ND, weight_VD, targets_N, cap).mean(),
    )
    assert got.dtype == dtype
    assert got.item() == pytest.approx(expected.item(), rel=10 * tolerance)
    pairs = zip(
        torch.autograd.grad(got, (hidden_ND, weight_VD)),
        torch.autograd.grad(expected, (hidden_ND, weight_VD)),
        strict=True,
    )
    for ours, theirs in pairs:
        assert ours.dtype == dtype
        assert (ours - theirs).norm() < tolerance * theirs.norm()


def test_under_autocast_the_products_run_in_bfloat16_and_the_rest_does_not():
    """The loss is that of bfloat16 logits; a softmax in bfloat16 would miss it by a thousandth."""
    hidden_ND, weight_VD, targets_N = head(torch.float32, ROWS + 3, scale=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        got = mean_nats(hidden_ND, weight_VD, targets_N, 30.0)
        z_NV = F.linear(hidden_ND, weight_VD)
    assert z_NV.dtype == torch.bfloat16
    expected = F.cross_entropy(30 * torch.tanh(z_NV.float() / 30), targets_N)
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    exact = plain_nats(hidden_ND, weight_VD, targets_N, 30.0).mean()
    for ours, theirs in zip(
        torch.autograd.grad(got, (hidden_ND, weight_VD)),
        torch.autograd.grad(exact, (hidden_ND, weight_VD)),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        # Eight bits of mantissa.
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_huge_logits_stay_finite():
    """At a cap of 500, exp overflows float32 unless each row's largest logit is taken off."""
    hidden_ND, weight_VD, targets_N = head(torch.float32, 20, scale=1e4)
    loss = mean_nats(hidden_ND, weight_VD, targets_N, 500.0)
    loss.backward()
    assert loss.isfinite()
    assert hidden_ND.grad.isfinite().all()


def test_no_tensor_reaches_the_size_of_all_logits():
    hidden_ND, weight_VD, targets_N = head(torch.float32, 8 * ROWS)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max([largest, *(x.numel() for x in (out,) if isinstance(x, torch.Tensor))])
            return out

    with Watch():
        mean_nats(hidden_ND, weight_VD, targets_N, 30.0).backward()
        target_nats(hidden_ND, weight_VD, targets_N, 30.0)
    assert largest <= CHUNK_LOGITS["cpu"]


def test_nats_of_single_targets():
    hidden_ND, weight_VD, targets_N = head(torch.float32, 3 * ROWS)
    hidden, targets = hidden_ND.view(3, ROWS, -1), targets_N.view(3, ROWS)
    nats = target_nats(hidden, weight_VD, targets, 30.0)
    assert not nats.requires_grad
    assert torch.allclose(nats.flatten(), plain_nats(hidden_ND, weight_VD, targets_N, 30.0), atol=1e-5)
    with torch.no_grad():
        assert mean_nats(hidden, weight_VD, targets, 30.0).item() == pytest.approx(nats.mean().item(), rel=1e-6)


def test_the_network_hands_out_both():
    model = randomised(TINY)
    ids_BT = torch.randint(TINY.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs_BT, targets_BT = ids_BT[:, :-1], ids_BT[:, 1:]
    expected_BT = F.cross_entropy(model(inputs_BT).transpose(1, 2), targets_BT, reduction="none")
    head = (model.token_embedding.weight, targets_BT, model.config.logit_softcap)
    assert torch.allclose(target_nats(model.hidden(inputs_BT), *head), expected_BT, atol=1e-4)
    assert model(inputs_BT, targets_BT).item() == pytest.approx(expected_BT.mean().item(), rel=1e-5)


def test_a_compiler_makes_one_comparison_of_the_targets():
    """A scatter into the probabilities would keep float32 copies of all logits of a chunk in memory between kernels."""
    graphs = []

    def keep(graph, example_inputs):
        joint_graph_passes(graph)
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return make_boxed_func(graph)

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=keep, decompositions=select_decomp_table())
    compiled = torch.compile(mean_nats, backend=backend, fullgraph=True)
    hidden_ND, weight_VD, targets_N = head(torch.float32, 20)
    compiled(hidden_ND, weight_VD, targets_N, 30.0).backward()
    assert any("aten.tanh" in target for target in graphs[0])
    assert not any("scatter" in target for target in graphs[0])
