"""The looped U-Net, a causal language model.

Features:
* unique encoder blocks, a core of looped blocks visited several times, unique decoder blocks (`schedule.py`)
* weighted skips from encoder to decoder, last in first out
* grouped key/value heads, normalised queries and keys with a learned gain, exclusive self-attention (`attention.py`)
* partial rotary positions with another speed in every pass (`rotary.py`)
* squared leaky ReLU (`mlp.py`); every block can look back at the embedding (`block.py`)
* FLOW instructions between passes (`conditioning.py`)
* hashed bigrams, smeared embeddings, a value embedding in the core (`embedding.py`)
* norms without weights, no biases, tied head with soft-capped logits

Every matrix that multiplies activations is an `nn.Linear` called as a module (the tied head excepted), every lookup
table an `nn.Embedding`; what remains are small control parameters, kept in float32 under autocast.

Axes: B batch, T position, D model width, V vocabulary.
Source: the crawler programs of Parameter Golf (pull requests 1140, 1308, 1535).
Differs: the RoPE base follows the configured context, never the tensor's length.
Checked by: tests/model/, tests/test_interop.py
"""

from dataclasses import replace
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.attention import Attention
from pipeline.model.block import Block
from pipeline.model.conditioning import CorePass, Flow, PassConditioner
from pipeline.model.config import ModelConfig
from pipeline.model.embedding import BigramHash, Smear, ValueEmbedding
from pipeline.model.layers import rms_norm, softcap
from pipeline.model.mlp import MLP
from pipeline.model.rotary import RotaryTable, Rotation
from pipeline.model.schedule import Visit, looped_core_schedule


class _VisitInputs(NamedTuple):
    """What every visit of one forward pass reads besides the stream itself."""

    x0_BTD: Tensor
    rotations: list[Rotation]
    added_values: dict[int, Tensor]


class LoopedUNet(nn.Module):
    """A language model that visits its blocks in the order of `schedule`; parameters start as torch leaves them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = looped_core_schedule(config.unique_blocks, config.looped_blocks, config.num_loops)
        self.token_embedding = nn.Embedding(config.vocab_size, config.model_dim)
        self.bigram = _bigram_hash(config)
        self.smear = Smear(config.model_dim) if config.smear_gate else None
        self.value_embedding = _value_embedding(config)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.unique_blocks + config.looped_blocks))
        self.conditioners = _conditioners(config)
        self.skip_weights = _skip_weights(len(self.schedule.skips), config.model_dim)
        self.rotary = RotaryTable(config)

    def forward(self, input_ids_BT: Tensor) -> Tensor:
        """Return float32 logits (B, T, V) of the token after each position; any T of at least 1."""
        return self.logits(self.hidden(input_ids_BT))

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return float32 logits (..., V) of final-normed hidden states (..., D), soft-capped."""
        z_BTV = F.linear(hidden_BTD, self.token_embedding.weight)
        return softcap(z_BTV.float(), self.config.logit_softcap)

    def hidden(self, input_ids_BT: Tensor) -> Tensor:
        """Return the final-normed hidden states (B, T, D) that the head reads."""
        x_BTD = self.embed(input_ids_BT)
        inputs = _VisitInputs(x_BTD, self.rotary(input_ids_BT.size(1)), self._added_values(input_ids_BT))

        encoder_outputs = []
        for visit in self.schedule.encoder:
            x_BTD = self._visit(visit, x_BTD, inputs)
            encoder_outputs.append(x_BTD)

        for loop, visits in enumerate(self.schedule.passes):
            x_BTD = self._run_pass(visits, x_BTD, inputs, CorePass(loop, x_BTD, tuple(encoder_outputs)))

        for i, visit in enumerate(self.schedule.decoder):
            if self.skip_weights is not None and encoder_outputs:
                x_BTD = x_BTD + self.skip_weights[i] * encoder_outputs.pop()
            x_BTD = self._visit(visit, x_BTD, inputs)
        return rms_norm(x_BTD)

    def embed(self, input_ids_BT: Tensor) -> Tensor:
        """Return the (B, T, D) stream before any block runs."""
        x_BTD = self.token_embedding(input_ids_BT)
        if self.bigram is not None:
            x_BTD = x_BTD + self.bigram(input_ids_BT)
        x_BTD = rms_norm(x_BTD)
        return x_BTD if self.smear is None else self.smear(x_BTD)

    def set_context(self, context_tokens: int) -> None:
        """Let the rotary base follow another context length, in place; no parameter changes."""
        self.config = replace(self.config, context_tokens=context_tokens)
        self.rotary.set_context(context_tokens)

    def _run_pass(self, visits: tuple[Visit, ...], x_BTD: Tensor, inputs: _VisitInputs, core_pass: CorePass) -> Tensor:
        conditioners = [cast(PassConditioner, module) for module in self.conditioners.values()]
        for conditioner in conditioners:
            x_BTD = conditioner.before(x_BTD, core_pass)
        for visit in visits:
            x_BTD = self._visit(visit, x_BTD, inputs)
        for conditioner in reversed(conditioners):
            x_BTD = conditioner.after(x_BTD, core_pass)
        return x_BTD

    def _visit(self, visit: Visit, x_BTD: Tensor, inputs: _VisitInputs) -> Tensor:
        rotation = inputs.rotations[self.rotary.row(visit)]
        return self.blocks[visit.block](x_BTD, inputs.x0_BTD, rotation, inputs.added_values.get(visit.block))

    def _added_values(self, input_ids_BT: Tensor) -> dict[int, Tensor]:
        """Return the value-embedding addend of every physical block that reads one."""
        if self.value_embedding is None:
            return {}
        readers = [self.config.unique_blocks + i for i in self.config.value_embedding_blocks]
        return dict(zip(readers, self.value_embedding(input_ids_BT), strict=True))


def _bigram_hash(config: ModelConfig) -> BigramHash | None:
    if not config.bigram_buckets:
        return None
    return BigramHash(config.bigram_buckets, config.bigram_dim, config.model_dim)


def _value_embedding(config: ModelConfig) -> ValueEmbedding | None:
    num_readers = len(config.value_embedding_blocks)
    if not config.value_embedding_dim or not num_readers:
        return None
    kv_dim = config.num_kv_heads * (config.model_dim // config.num_heads)
    return ValueEmbedding(config.vocab_size, config.value_embedding_dim, kv_dim, num_readers)


def _conditioners(config: ModelConfig) -> nn.ModuleDict:
    """Return the conditioners by name, in the order in which they run before a pass."""
    conditioners: dict[str, nn.Module] = {}
    # A single pass has nothing to tell apart.
    if config.flow_dim and config.looped_blocks and config.num_loops >= 2:
        conditioners["flow"] = Flow(config.model_dim, config.flow_dim, config.num_loops)
    return nn.ModuleDict(conditioners)


def _skip_weights(num_skips: int, model_dim: int) -> nn.Parameter | None:
    return nn.Parameter(torch.ones(num_skips, model_dim)) if num_skips else None


def initialise(model: LoopedUNet, generator: torch.Generator) -> None:
    """Set every matrix and table in place; gains, gates and scales keep the neutral values they are born with.

    Whatever writes to the stream starts at zero: a fresh network predicts from the embedding alone.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, generator=generator)
    nn.init.normal_(model.token_embedding.weight, std=model.config.embed_init_std, generator=generator)
    for module in model.modules():
        match module:
            case Attention():
                nn.init.zeros_(module.output.weight)
            case MLP():
                nn.init.zeros_(module.down.weight)
            case Flow():
                for weight in module.up.parameters():
                    nn.init.zeros_(weight)
            case BigramHash():
                nn.init.zeros_(module.table.weight)
            case ValueEmbedding():
                nn.init.normal_(module.table.weight, std=ValueEmbedding.INITIAL_STD, generator=generator)


def build(config: ModelConfig, seed: int = 0) -> LoopedUNet:
    """Return a float32 CPU network, initialised deterministically for `seed`; the global generator is untouched."""
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when they are constructed
        model = LoopedUNet(config)
    initialise(model, torch.Generator().manual_seed(seed))
    return model
