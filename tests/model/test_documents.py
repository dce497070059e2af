"""Attention within documents against every document's piece fed alone, and against slow kernels."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model.backends import FLASH_2, attention_kernel
from pipeline.model.documents import DocumentView, attend_by_mask, attend_by_table, rows_for
from pipeline.model.network import LoopedUNet
from pipeline.model.stream_cache import StreamCache
from pipeline.training.backward import with_room
from tests.model.test_network import OnCuda
from tests.networks import ARCHITECTURES, TINY, architecture, changed, random_ids, randomised

BOS = 1
ISOLATED = {"attention.document_bos_id": BOS, "bigram": None}
"""A pair's embedding and the smear by channel cross boundaries by their own definition."""


def packed_ids(*shape: int, seed: int = 0) -> Tensor:
    """Return random tokens, a quarter of which begin documents."""
    ids_BT = random_ids(TINY, *shape, seed=seed)
    ids_BT[torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.25] = BOS
    return ids_BT


def pieces_of(ids_T: Tensor) -> list[Tensor]:
    """Return the documents of a sequence, the first of which may lack its beginning."""
    bounds = [0, *(t for t in range(1, len(ids_T)) if ids_T[t] == BOS), len(ids_T)]
    return [ids_T[start:stop] for start, stop in itertools.pairwise(bounds)]


def isolated(name: str) -> LoopedUNet:
    """Return a network of an architecture that keeps documents apart, in double precision, and its plain twin."""
    config = changed(architecture(name), ISOLATED)
    if config.smear is not None and config.smear.kind == "channel":
        config = changed(config, {"smear": None})
    return randomised(config).double()


def plain_twin(model: LoopedUNet) -> LoopedUNet:
    """Return the same weights without a view of documents."""
    twin = LoopedUNet(changed(model.config, {"attention.document_bos_id": None})).double()
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_every_piece_fed_alone_in_loss_and_gradients(name: str) -> None:
    model, ids_BT = isolated(name), packed_ids(2, 13)
    twin = plain_twin(model)
    inputs_BT, targets_BT = ids_BT[:, :-1], ids_BT[:, 1:]
    model(inputs_BT, targets_BT).backward()
    total = torch.zeros((), dtype=torch.float64)
    for inputs_T, targets_T in zip(inputs_BT, targets_BT, strict=True):
        lengths = [len(piece) for piece in pieces_of(inputs_T)]
        for piece, targets in zip(pieces_of(inputs_T), targets_T.split(lengths), strict=True):
            total = total + twin(piece[None], targets[None]) * len(piece) / inputs_BT.numel()
    total.backward()
    assert model(inputs_BT, targets_BT).item() == pytest.approx(total.item(), rel=1e-6)
    for (label, ours), (_, theirs) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        if theirs.grad is not None:
            # Angles are float32 and differ between a place in the sequence and the same place in its piece.
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5), label  # type: ignore[arg-type]


def test_without_a_beginning_inside_nothing_changes() -> None:
    model = isolated("tiny")
    ids_BT = random_ids(TINY, 2, 9).clamp(min=BOS + 1)
    assert torch.allclose(model(ids_BT), plain_twin(model)(ids_BT), atol=1e-9)


@pytest.mark.parametrize("name", ["tiny", "helix, attention", "frontier"])
def test_pieces_of_a_stream_and_last_positions_see_what_the_whole_does(name: str) -> None:
    model, ids_BT = isolated(name), packed_ids(2, 24)
    with torch.no_grad():
        whole_BTD = model.hidden(ids_BT)
        assert torch.allclose(model.hidden(ids_BT, 5), whole_BTD[:, -5:], atol=1e-5)
        cache, pieces = StreamCache(keep_tokens=24), []
        for piece_BT in ids_BT.split([7, 1, 9, 7], dim=1):
            pieces.append(model.hidden(piece_BT, None, cache))
    assert torch.allclose(torch.cat(pieces, 1), whole_BTD, atol=1e-5)


@pytest.mark.parametrize("compiled_rows", [None, 64])
def test_the_table_names_every_beginning(compiled_rows: int | None) -> None:
    ids_BT = packed_ids(3, 20)
    expected = [20 * b + t for b in range(3) for t in range(20) if not t or ids_BT[b, t] == BOS]

    def ends(ids_BT: Tensor) -> Tensor:
        return DocumentView(BOS, compiled_rows or 0, ids_BT, None).ends()

    if compiled_rows:
        torch._dynamo.reset()
        ends = torch.compile(ends, backend="aot_eager", fullgraph=True, dynamic=False)
    ends_K = ends(ids_BT)
    assert ends_K.dtype == torch.int32
    assert ends_K.tolist() == expected + [60] * (len(ends_K) - len(expected))
    assert len(ends_K) == (compiled_rows or len(expected)) + 1


def test_room_for_documents_grows_by_doubling_and_never_shrinks() -> None:
    config = changed(TINY, {"attention.document_bos_id": BOS})
    ids_BT = packed_ids(4, 64)
    starts = 4 + int((ids_BT == BOS).sum())
    rows = rows_for(config, 0, ids_BT)
    assert starts <= rows < 2 * starts
    assert rows_for(config, rows, ids_BT[:1]) == rows
    assert rows_for(config, 0, torch.full((4, 512), BOS + 1)) == 16, "two documents a sequence, 256 tokens each"
    assert rows_for(TINY, 0, ids_BT) == 0


def attended(q_TE: Tensor, k_TE: Tensor) -> Tensor:
    """Return the causal weights (T, T) of one head."""
    future_TT = torch.ones(len(q_TE), len(q_TE), dtype=torch.bool).triu(1)
    return F.softmax((q_TE @ k_TE.T * q_TE.size(1) ** -0.5).masked_fill(future_TT, -torch.inf), 1)


def flash_forward(q_NHE, k_NGE, v_NGE, ends_K, also_ends_K, max_q, max_k, dropout, causal, return_debug_mask, **_):
    """Return what the kernel of CUDA does, document by document and head by head."""
    assert causal
    assert not dropout
    assert torch.equal(ends_K, also_ends_K)
    y_NHE, nothing = torch.zeros_like(q_NHE), torch.zeros(2, dtype=torch.uint64)
    for document, head, group in _heads(ends_K, q_NHE, k_NGE):
        assert document.stop - document.start <= max_q == max_k
        y_NHE[document, head] = attended(q_NHE[document, head], k_NGE[document, group]) @ v_NGE[document, group]
    return y_NHE, q_NHE.new_zeros(q_NHE.size(1), len(q_NHE)), nothing, nothing[0], q_NHE.new_zeros(0)


def flash_backward(grad_NHE, q_NHE, k_NGE, v_NGE, y_NHE, _lse, ends_K, *_, **__):
    """Return the gradients of the same."""
    grads = [torch.zeros_like(x) for x in (q_NHE, k_NGE, v_NGE)]
    for document, head, group in _heads(ends_K, q_NHE, k_NGE):
        q_TE, k_TE, v_TE = q_NHE[document, head], k_NGE[document, group], v_NGE[document, group]
        grad_TE, weights_TT = grad_NHE[document, head], attended(q_TE, k_TE)
        slope_TT = weights_TT * (grad_TE @ v_TE.T - (grad_TE * y_NHE[document, head]).sum(1, keepdim=True))
        grads[0][document, head] = slope_TT @ k_TE * q_TE.size(1) ** -0.5
        grads[1][document, group] += slope_TT.T @ q_TE * q_TE.size(1) ** -0.5
        grads[2][document, group] += weights_TT.T @ grad_TE
    return grads


def _heads(ends_K: Tensor, q_NHE: Tensor, k_NGE: Tensor) -> Iterator[tuple[slice, int, int]]:
    for start, stop in itertools.pairwise(ends_K.tolist()):
        for head in range(q_NHE.size(1)):
            yield slice(start, stop), head, head * k_NGE.size(1) // q_NHE.size(1)


@pytest.fixture
def slow_flash() -> Iterator[list[int]]:
    """Give a CPU the variable-length kernel of CUDA by its definition; yield the lengths of the tables it was given."""
    calls: list[int] = []

    def counted(*arguments: Any, **settings: Any) -> Any:
        calls.append(len(arguments[3]))
        return flash_forward(*arguments, **settings)

    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", counted, "CPU")
    library.impl("_flash_attention_backward", flash_backward, "CPU")
    yield calls
    library._destroy()


@pytest.mark.parametrize("rows", [None, 32])
def test_the_table_and_the_mask_attend_alike(slow_flash: list[int], rows: int | None) -> None:
    view = DocumentView(BOS, rows or 0, packed_ids(2, 11), None)
    by_table_of = attend_by_table
    if rows:
        torch._dynamo.reset()
        by_table_of = torch.compile(attend_by_table, backend="aot_eager", fullgraph=True, dynamic=False)
        padding = torch.full((rows - len(view.ends()) + 1,), 22, dtype=torch.int32)
        view._ends = torch.cat((view.ends(), padding))
    generator = torch.Generator().manual_seed(2)
    shapes = [(2, 11, heads, 8) for heads in (4, 2, 2)]
    q, k, v = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    by_mask, by_table = attend_by_mask(q, k, v, view.mask()), by_table_of(q, k, v, view.ends())
    assert torch.allclose(by_mask, by_table, atol=1e-6)
    weights = torch.randn(by_mask.shape, generator=generator)
    grads = [torch.autograd.grad((y * weights).sum(), (q, k, v)) for y in (by_mask, by_table)]
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "frontier"])
def test_a_gpu_in_bf16_takes_the_table_and_the_mask_for_last_positions(slow_flash: list[int], name: str) -> None:
    model, ids_BT = isolated(name).float(), packed_ids(2, 13)
    with torch.no_grad():
        exact_BTD = model.hidden(ids_BT)
        with OnCuda(), torch.autocast("cpu", torch.bfloat16), attention_kernel(FLASH_2):
            by_table_BTD = model.hidden(ids_BT)
            tables = len(slow_flash)
            by_mask_BTD = model.hidden(ids_BT, 3)
        with OnCuda(), torch.autocast("cpu", torch.bfloat16):
            model.hidden(ids_BT)
    assert tables == len(model.schedule.visits)
    assert len(slow_flash) == 2 * tables - 1, "the last visit has fewer queries than keys; sdpa by name has no table"
    for given_BTD in (by_table_BTD[:, -3:], by_mask_BTD):
        assert (given_BTD - exact_BTD[:, -3:]).abs().mean() < 0.1 * exact_BTD.std()


@pytest.mark.parametrize("name", ["tiny", "helix, attention"])
def test_a_compiler_reads_the_whole_network(name: str) -> None:
    model, ids_BT = isolated(name), packed_ids(2, 10)
    model.document_rows = 32
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    loss = model(ids_BT[:, :-1], ids_BT[:, 1:])
    assert compiled(ids_BT[:, :-1], ids_BT[:, 1:]).item() == pytest.approx(loss.item(), rel=1e-9)


@pytest.mark.parametrize("rows", [0, 32])
def test_a_compiler_takes_the_table_where_it_has_rows_and_else_the_mask(rows: int) -> None:
    def read(ids_BT: Tensor) -> Tensor:
        return ids_BT + 1 if DocumentView(BOS, rows, ids_BT, None).takes_table() else ids_BT

    ids_BT = packed_ids(2, 10)
    torch._dynamo.reset()
    with attention_kernel(FLASH_2):
        assert torch.equal(read(ids_BT), ids_BT + 1)
        compiled = torch.compile(read, backend="eager", fullgraph=True, dynamic=False)
        assert torch.equal(compiled(ids_BT), ids_BT + (rows > 0))


def test_a_network_makes_room_for_the_documents_of_every_part_of_a_batch() -> None:
    model, ids_BT, rows = isolated("tiny"), packed_ids(6, 64), []
    backward = with_room(lambda tokens_BT: rows.append(model.document_rows) or tokens_BT[0, 0], model, 2)
    backward(ids_BT)
    backward(ids_BT[:2])
    starts = max(2 + int((part_BT == BOS).sum()) for part_BT in ids_BT.split(2))
    assert rows == [rows[0]] * 2
    assert model.document_rows == 0, "scoring, whose batches hold other documents, takes the mask"
    assert starts <= rows[0] < 2 * starts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_table_and_the_mask_attend_alike_compiled_too() -> None:
    view = DocumentView(BOS, 64, packed_ids(4, 128).cuda(), None)
    generator = torch.Generator("cuda").manual_seed(2)
    shapes = [(4, 128, heads, 64) for heads in (8, 4, 4)]
    q, k, v = (torch.randn(s, generator=generator, device="cuda").bfloat16().requires_grad_() for s in shapes)
    weights = torch.randn(q.shape, generator=generator, device="cuda")

    def by_table(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_by_table(q, k, v, DocumentView(BOS, view.rows, packed, None).ends())

    packed = packed_ids(4, 128).cuda()
    compiled = torch.compile(by_table, fullgraph=True, dynamic=False)
    results = [attend_by_mask(q.float(), k.float(), v.float(), view.mask()), by_table(q, k, v), compiled(q, k, v)]
    grads = [torch.autograd.grad((y * weights).sum(), (q, k, v)) for y in results]
    for y, grad in zip(results[1:], grads[1:], strict=True):
        assert (y - results[0]).abs().max() < 0.05
        for ours, exact in zip(grad, grads[0], strict=True):
            assert (ours - exact).norm() < 0.02 * exact.norm()
