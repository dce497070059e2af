"""The network: a causal language model that visits its blocks in the order of a schedule.

Features:
* encoder, looped core, decoder; folded looped U-Nets; shared-only stacks; helices (`schedule.py`, `parts/helix.py`)
* weighted skips from encoder to decoder, last in first out, added or blended in through gates
* grouped key/value heads, normalised queries and keys with a learned gain, exclusive self-attention, sparse head gates
  (`attention.py`), within documents or across them (`documents.py`)
* partial rotary positions with another speed in every pass (`rotary.py`)
* squared leaky ReLU (`mlp.py`), with a bottleneck per pass (`parts/choke.py`); sequential or parallel branches,
  controls per block or per visit, a look back at the embedding (`block.py`); branches in two lanes (`parts/lanes.py`)
* conditioners of the passes, such as FLOW instructions or an anchor (`parts/conditioners.py`)
* hashed bigrams, smeared embeddings (`embedding.py`), bigrams split by place in the word (`parts/position_bigram.py`),
  value embeddings (`parts/value_embedding.py`)
* norms without weights, no biases, tied head with soft-capped logits (`parts/asymmetric_cap.py`: a cap per sign),
  factorised embedding

Every matrix that multiplies activations is an `nn.Linear` called as a module (the tied head excepted), every lookup
table an `nn.Embedding`; what remains are small control parameters, kept in float32 under autocast.

Axes: B batch, T position, D model width, V vocabulary.
Source: programs of Parameter Golf (pull requests 1140, 1308, 1493, 1535, 1579).
Differs: the RoPE base follows the configured context, never the tensor's length.
Checked by: tests/model/, tests/interop/test_interop.py
"""

from dataclasses import replace
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.block import VisitControls, VisitInputs
from pipeline.model.config import ModelConfig
from pipeline.model.documents import DocumentView, seen_by
from pipeline.model.embedding import BigramHash, DocumentSmear, lookup_table, projection_between, smear_of
from pipeline.model.layers import rms_norm, softcap, stream_dtype, tail
from pipeline.model.loss import mean_nats, target_nats
from pipeline.model.parts.asymmetric_cap import AsymmetricCap
from pipeline.model.parts.conditioners import build_conditioners
from pipeline.model.parts.conditioning import CorePass, PassConditioner
from pipeline.model.parts.config import AsymmetricCapConfig, LanesConfig
from pipeline.model.parts.helix import Helix
from pipeline.model.parts.instructions import LoopPositions
from pipeline.model.parts.lanes import block_of
from pipeline.model.parts.position_bigram import PositionBigram
from pipeline.model.parts.value_embedding import ValueEmbedding, readers_by_slot
from pipeline.model.rotary import RotaryTable, Rotation
from pipeline.model.schedule import Visit, build_schedule
from pipeline.model.schedule_config import FoldedSchedule, HelixSchedule
from pipeline.model.stream_cache import StreamCache
from pipeline.model.unread import UnreadTensors


class _ForwardInputs(NamedTuple):
    """What the visits of one forward pass read besides the stream itself."""

    x0_BTD: Tensor
    rotations: list[Rotation]
    added_values: list[Tensor]
    num_scored: int | None
    cache: StreamCache | DocumentView | None


class LoopedUNet(nn.Module):
    """A language model that visits its blocks in the order of `schedule`; parameters start as torch leaves them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, width = config.model_dim, config.embedding_dim
        self.config = config
        self.schedule = build_schedule(config.schedule)
        self.token_embedding = lookup_table(config.vocab_size, width)
        self.bigram = (
            None
            if config.bigram is None
            else PositionBigram(config.bigram, width, config.vocab_size)
            if config.bigram.hash == "position"
            else BigramHash(config.bigram, width)
        )
        self.embedding_projection = projection_between(width, dim)
        self.smear = smear_of(config.smear, dim)
        self.value_embedding = (
            None
            if config.value_embedding is None
            else ValueEmbedding(config.value_embedding, config.vocab_size, config.kv_dim)
        )
        self.blocks = nn.ModuleList(block_of(config, i) for i in range(config.schedule.num_blocks))
        self.visit_controls = VisitControls(self.schedule.effective_depth, dim) if config.visit_controls else None
        self.conditioners = build_conditioners(config)
        self.offset_block = (
            config.schedule.loop_start
            if isinstance(config.schedule, FoldedSchedule) and config.conditioners.positions
            else None
        )
        self.helix = Helix(config.schedule, dim) if isinstance(config.schedule, HelixSchedule) else None
        num_skips = len(self.schedule.skips)
        self.skip_weights = nn.Parameter(torch.ones(num_skips, dim)) if num_skips else None
        self.skip_gates = nn.Parameter(torch.zeros(num_skips, dim)) if num_skips and config.skip_gates else None
        self.head_projection = projection_between(dim, width)
        cap = config.logit_softcap
        self.cap = AsymmetricCap(cap) if isinstance(cap, AsymmetricCapConfig) else None
        self.rotary = RotaryTable(config.rope, config.head_dim, config.context_tokens)
        self.unread = UnreadTensors(config.unread)
        self.readers = readers_by_slot(config, self.schedule)
        self.document_rows = 0
        """Of a compiled table of documents."""

    @classmethod
    def empty(cls, config: ModelConfig) -> "LoopedUNet":
        """Return a network whose tensors are allocated and hold anything: for whoever loads all of them."""
        with torch.device("meta"):
            model = cls(config)
        # As `to_empty` would, which loads sympy for it. Rotary frequencies are in no state dict.
        model._apply(lambda x: torch.empty(x.shape)).set_context(config.context_tokens)
        return model

    def forward(self, input_ids_BT: Tensor, targets_BT: Tensor | None = None) -> Tensor:
        """Return float32 logits (B, T, V) of the token after each position; any T of at least 1.

        With targets return their mean nats instead, differentiable, without a full tensor of logits.
        """
        hidden_BTD = self.hidden(input_ids_BT)
        if targets_BT is None:
            return self.logits(hidden_BTD)
        if self.cap is not None:
            return self.cap.mean_nats(hidden_BTD, self.token_embedding.weight, targets_BT)
        return mean_nats(hidden_BTD, self.token_embedding.weight, targets_BT, cast(float, self.config.logit_softcap))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits (..., V) of what `hidden` returns, soft-capped."""
        return self.capped(F.linear(hidden, self.token_embedding.weight))

    def capped(self, z: Tensor) -> Tensor:
        """Return the head's products (..., V) as soft-capped logits, float32."""
        return softcap(z.float(), cast(float, self.config.logit_softcap)) if self.cap is None else self.cap(z.float())

    def nats(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return float32 nats of `targets` given what `hidden` returns for them, without a full tensor of logits."""
        if self.cap is not None:
            return self.cap.nats(hidden, self.token_embedding.weight, targets)
        return target_nats(hidden, self.token_embedding.weight, targets, cast(float, self.config.logit_softcap))

    def hidden(self, input_ids_BT: Tensor, num_scored: int | None = None, cache: StreamCache | None = None) -> Tensor:
        """Return the final states (B, T, embedding_dim) that the head reads: normed, projected where widths differ.

        With `num_scored`, at most T, only those of so many last positions: what follows the keys and values of the last
        visit is pointwise, so it is computed for these alone. Exact for every architecture; without it nothing changes.
        With a `cache` the ids are the next piece of the streams that it remembers.
        """
        num_tokens = input_ids_BT.size(1)
        start, seen_BT = (0, input_ids_BT) if cache is None else cache.begin(input_ids_BT)
        x_BTD = tail(self.embed(seen_BT), num_tokens)
        x_BTD = x_BTD.to(stream_dtype(x_BTD))
        added = [] if self.value_embedding is None else self.value_embedding(input_ids_BT)
        seen = seen_by(self.config, self.document_rows, input_ids_BT, cache)
        inputs = _ForwardInputs(x_BTD, self.rotary(num_tokens, start), added, num_scored, seen)

        x_BTD = self._run_unet(x_BTD, inputs) if self.helix is None else self._run_helix(self.helix, x_BTD, inputs)
        return self.head_projection(rms_norm(tail(x_BTD, num_scored)))

    def embed(self, input_ids_BT: Tensor) -> Tensor:
        """Return the (B, T, D) stream before any block runs."""
        x = self.token_embedding(input_ids_BT)
        if self.bigram is not None:
            x = x + self.bigram(input_ids_BT)
        if isinstance(self.smear, DocumentSmear):
            return self.embedding_projection(rms_norm(self.smear(x, input_ids_BT)))
        x_BTD = self.embedding_projection(rms_norm(x))
        return x_BTD if self.smear is None else self.smear(x_BTD, input_ids_BT)

    def set_context(self, context_tokens: int) -> None:
        """Let the rotary base follow another context length, in place; no parameter changes."""
        self.config = replace(self.config, context_tokens=context_tokens)
        self.rotary.set_context(context_tokens)

    def set_active_loops(self, active_loops: int | None) -> None:
        """Run the first `active_loops` passes only, in place (None: all); no parameter changes."""
        self.schedule = build_schedule(self.config.schedule, active_loops)

    def _run_unet(self, x_BTD: Tensor, inputs: _ForwardInputs) -> Tensor:
        """Run encoder, passes and decoder; a folded stack has no passes."""
        pushed = []
        for visit in self.schedule.encoder:
            x_BTD = self._visit(visit, x_BTD, inputs)
            pushed.append(x_BTD)
        encoder_outputs = tuple(pushed)
        memory: dict[str, Tensor] = {}
        for loop, visits in enumerate(self.schedule.passes):
            x_BTD = self._run_pass(visits, x_BTD, inputs, CorePass(loop, x_BTD, encoder_outputs, memory))
        for i, visit in enumerate(self.schedule.decoder):
            if (
                isinstance(self.config.parallel_blocks, LanesConfig)
                and visit.block == self.config.parallel_blocks.first_block
            ):
                x_BTD = torch.stack((x_BTD, x_BTD), dim=2)
            if pushed:
                x_BTD = self._add_skip(i, x_BTD, pushed.pop())
            x_BTD = self._visit(visit, x_BTD, inputs)
        return x_BTD.mean(2) if isinstance(self.config.parallel_blocks, LanesConfig) else x_BTD

    def _run_helix(self, helix: Helix, x_BTD: Tensor, inputs: _ForwardInputs) -> Tensor:
        """Run encoder and decoder, the looped blocks beside them on a stream of their own; merge the two."""
        loop_BTD = x_BTD
        pushed: list[Tensor] = []
        for visit, beside in zip(self.schedule.encoder + self.schedule.decoder, self.schedule.beside, strict=True):
            if visit.phase == "decoder" and pushed:
                x_BTD = self._add_skip(len(self.schedule.encoder) - len(pushed), x_BTD, pushed.pop())
            x_BTD = self._visit(visit, x_BTD, inputs)
            if visit.phase == "encoder":
                pushed.append(x_BTD)
            if beside:
                to_loop_BTD, to_main_BTD = helix.hints(x_BTD, loop_BTD, inputs.cache)
                loop_BTD = loop_BTD + to_loop_BTD
                for side in beside:
                    loop_BTD = self._visit(side, loop_BTD, inputs)
                x_BTD = x_BTD + to_main_BTD
        return helix.merge(tail(x_BTD, inputs.num_scored), tail(loop_BTD, inputs.num_scored))

    def _add_skip(self, i: int, x_BTD: Tensor, pushed_BTD: Tensor) -> Tensor:
        assert self.skip_weights is not None, "an encoder output without a weight"
        if isinstance(self.config.parallel_blocks, LanesConfig) and x_BTD.dim() == 4:
            return torch.stack((self._add_skip(i, x_BTD[:, :, 0], pushed_BTD), x_BTD[:, :, 1]), dim=2)
        skip_BTD = self.skip_weights[i] * pushed_BTD
        if self.skip_gates is None:
            return x_BTD + skip_BTD
        gate_D = torch.sigmoid(self.skip_gates[i])
        return skip_BTD + gate_D * (x_BTD - skip_BTD)

    def _run_pass(
        self, visits: tuple[Visit, ...], x_BTD: Tensor, inputs: _ForwardInputs, core_pass: CorePass
    ) -> Tensor:
        conditioners = [cast(PassConditioner, module) for module in self.conditioners.values()]
        for conditioner in conditioners:
            x_BTD = conditioner.before(x_BTD, core_pass)
        for visit in visits:
            out_BTD = self._visit(visit, x_BTD, inputs)
            for conditioner in reversed(conditioners):
                out_BTD = conditioner.after_block(tail(x_BTD, out_BTD.size(1)), out_BTD, core_pass)
            x_BTD = out_BTD
        if x_BTD.size(1) < core_pass.entry_BTD.size(1):
            entry_BTD = tail(core_pass.entry_BTD, inputs.num_scored)
            core_pass = CorePass(core_pass.loop, entry_BTD, core_pass.encoder_outputs, core_pass.memory)
        for conditioner in reversed(conditioners):
            x_BTD = conditioner.after(x_BTD, core_pass)
        return x_BTD.to(inputs.x0_BTD.dtype)

    def _visit(self, visit: Visit, x_BTD: Tensor, inputs: _ForwardInputs) -> Tensor:
        if self.offset_block is not None and visit.block == self.offset_block:
            offsets = cast(LoopPositions, self.conditioners["positions"])
            x_BTD = offsets.before(x_BTD, CorePass(visit.loop, x_BTD, (), {}))
        reader = self.readers.get(visit.slot)
        last = inputs.num_scored is not None and visit == self.schedule.visits[-1]
        return self.blocks[visit.block](
            x_BTD,
            VisitInputs(
                x0_BTD=inputs.x0_BTD,
                rotation=inputs.rotations[self.rotary.row(visit)],
                added_value=None if reader is None else inputs.added_values[reader],
                loop=visit.loop,
                controls=None if self.visit_controls is None else self.visit_controls.of(visit.slot),
                num_scored=inputs.num_scored if last else None,
                cache=inputs.cache,
            ),
        )


def initialise(model: LoopedUNet, generator: torch.Generator) -> None:
    """Set every matrix and table in place; gains, gates and scales keep the neutral values they are born with.

    Whatever writes to the stream starts at zero: a fresh network predicts from the embedding alone.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, generator=generator)
    nn.init.normal_(model.token_embedding.weight, std=model.config.embed_init_std, generator=generator)
    if model.bigram is not None:
        nn.init.zeros_(model.bigram.table.weight)
    if model.value_embedding is not None:
        nn.init.normal_(model.value_embedding.table.weight, std=model.value_embedding.INITIAL_STD, generator=generator)
    for module in model.modules():
        for writer in getattr(module, "writers", list)():
            nn.init.zeros_(writer.weight)


def build(config: ModelConfig, seed: int = 0) -> LoopedUNet:
    """Return a float32 CPU network, initialised deterministically for `seed`; the global generator is untouched."""
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when they are constructed
        model = LoopedUNet(config)
    initialise(model, torch.Generator().manual_seed(seed))
    return model


def largest_weights(model: LoopedUNet) -> str:
    """Return the name of the parameter that holds the largest number: the one to look at when activations overflow."""
    return max(model.named_parameters(), key=lambda named: float(named[1].detach().abs().max()))[0]
