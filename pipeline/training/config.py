"""The `train` section: budget and optimizer settings."""

from dataclasses import dataclass
from typing import Literal

from pipeline.base.checks import require
from pipeline.optim.config import BlockRates, GroupBeta, GroupDecay, MomentumCycle, SparseEmaConfig
from pipeline.training.contexts import ContextStage


@dataclass(frozen=True, kw_only=True)
class LoopStage:
    """From a share of the budget on, this many loops of the network run."""

    from_frac: float
    """Share of the budget at which the stage begins."""
    loops: int
    """Loops that run."""


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Exponential moving average of the weights after every step."""

    kind: Literal["ema"]
    decay: float
    """Weight of the past: the average spans some 1 / (1 - decay) steps."""
    from_frac: float
    """Share of the budget at which the average begins."""

    def __post_init__(self) -> None:
        require(0 < self.decay < 1, "decay", self.decay, "above 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class SwaConfig:
    """Stochastic weight averaging: the mean of weights taken during the warm-down."""

    kind: Literal["swa"]
    every_steps: int
    """Distance of the weights that are averaged."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, "every_steps", self.every_steps, "at least 1")


@dataclass(frozen=True, kw_only=True)
class FakeQuantConfig:
    """Forward and backward passes see matrices and the tied embedding rounded to nearest, straight-through."""

    kind: Literal["fake-quant"]
    from_frac: float
    """Share of the budget at which it begins."""
    matrix_bits: int
    """Bits of a matrix's codes, as in quantize.steps.bits."""
    embedding_bits: int
    """Bits of the tied embedding's codes, as in quantize.steps.bits."""
    clip_std: float
    """Row standard deviations at which the grid of a matrix clips."""
    embedding_clip_ratio: float
    """Clip of the tied embedding over that, as quantize.steps.embedding_clip_ratio."""

    def __post_init__(self) -> None:
        for name in ("matrix_bits", "embedding_bits"):
            require(2 <= getattr(self, name) <= 8, name, getattr(self, name), "2 to 8")
        for name in ("clip_std", "embedding_clip_ratio"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Forward and backward passes see the looped blocks' matrices with uniform noise as wide as a step of the grid."""

    kind: Literal["noise"]
    from_frac: float
    """Share of the budget at which it begins."""
    bits: int
    """Bits of the codes of looped blocks' matrices."""
    clip_std: float
    """Row standard deviations at which their grid clips."""

    def __post_init__(self) -> None:
        require(2 <= self.bits <= 8, "bits", self.bits, "2 to 8")
        require(self.clip_std > 0, "clip_std", self.clip_std, "above 0")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run: Muon on matrices, AdamW on the rest, linear warm-down over the end of the budget.

    A setting that could never take effect within the budget is refused.
    """

    max_steps: int | None
    """Step budget; null leaves the wall clock in charge."""
    max_seconds: float | None
    """Wall-clock budget in seconds; null leaves the step budget in charge. With both, whichever ends first."""
    reserve_seconds: float
    """Part of max_seconds that training leaves free, for calibration and quantization."""
    batch_tokens: int
    """Tokens per optimizer step over all processes."""
    micro_batch_sequences: int | None
    """Sequences per forward and backward pass of a process: bounds memory, changes rounding only; null takes the
    process's whole share of a batch at once."""
    warmup_steps: int
    """Steps over which the learning rate rises linearly to its peak."""
    warmdown_frac: float | None
    """Last share of the budget over which the learning rate falls linearly; null leaves it to warmdown_steps."""
    warmdown_steps: int | None
    """The same as a number of steps, against a clock at the measured speed; both null: no warm-down."""
    min_lr_frac: float
    """Learning rate at the end over its peak."""
    matrix_lr: float | BlockRates
    """Muon's peak learning rate for matrices, the same for all or with a factor per block."""
    embed_lr: float
    """AdamW's peak learning rate for embedding tables."""
    scalar_lr: float
    """AdamW's peak learning rate for gains, gates and scales."""
    muon_momentum: float
    """Muon's Nesterov momentum after its warm-up."""
    muon_momentum_start: float
    """Muon's momentum at step 0."""
    muon_momentum_warmup_steps: int | MomentumCycle
    """Steps over which Muon's momentum rises linearly, once; or a cycle between the two."""
    newton_schulz_steps: int
    """Newton-Schulz iterations of Muon."""
    newton_schulz: Literal["classic", "polar-express"]
    """Coefficients of the iteration: the same quintic every time, or the optimal polynomial of each iteration."""
    normalize_rows: bool
    """Scale the rows of Muon's update to equal length (MuonEq-R)."""
    adam_beta1: float | GroupBeta
    """AdamW's first-moment decay, the same for all or per group."""
    adam_beta2: float | GroupBeta
    """AdamW's second-moment decay, likewise."""
    weight_decay: float | GroupDecay
    """Decoupled weight decay on matrices and tables (gains, gates and scales have none), or per group."""
    weight_decay_end_frac: float
    """Weight decay at the end over its start; it falls with the warm-down. 1 keeps it constant."""
    grad_clip: float
    """Largest global gradient norm; 0 is off."""
    loop_stages: tuple[LoopStage, ...] | None
    """Loops that are active from which share of the budget on, the first from 0; null runs all loops always."""
    context_stages: tuple[ContextStage, ...] | None
    """Lengths of training sequences from which share of the budget on, the first from 0 and the last the model's, at
    equal tokens per step; null trains at the model's length always."""
    all_loops_every_steps: int | None
    """Cadence: only every n-th step runs the loops of its stage, the others run one; null is off."""
    average: EmaConfig | SparseEmaConfig | SwaConfig | None
    """Running average of the weights, which takes their place at the end; null keeps the last weights."""
    quantization: FakeQuantConfig | NoiseConfig | None
    """Training for the grid of the artifact; null is off."""
    document_bos_id: int | None
    """Sequences begin where documents do, at this token id (`bos_id` of the data manifest); null is off."""
    precision: Literal["auto", "bf16", "fp32"]
    """In what matrix products of forward and backward pass and of Muon are taken; weights and sums stay fp32. `auto` is
    bf16 where the device has such products, else fp32; header, log and report say which."""
    compile: bool
    """Compile the model with torch.compile (worth it on GPUs)."""
    log_every_steps: int
    """A log line and a curve row every n steps."""

    @property
    def train_seconds(self) -> float | None:
        """Seconds after which training ends."""
        return None if self.max_seconds is None else self.max_seconds - self.reserve_seconds

    def __post_init__(self) -> None:
        require(
            self.max_steps is not None or self.max_seconds is not None,
            "max_steps",
            self.max_steps,
            "a number here or in max_seconds: a run needs a budget",
        )
        require(self.max_steps is None or self.max_steps >= 1, "max_steps", self.max_steps, "null or at least 1")
        require(self.max_seconds is None or self.max_seconds > 0, "max_seconds", self.max_seconds, "null or above 0")
        require(
            self.reserve_seconds == 0 or self.max_seconds is not None,
            "reserve_seconds",
            self.reserve_seconds,
            "0 without max_seconds",
        )
        require(
            self.max_seconds is None or 0 <= self.reserve_seconds < self.max_seconds,
            "reserve_seconds",
            self.reserve_seconds,
            f"0 or more and below max_seconds ({self.max_seconds})",
        )
        micro = self.micro_batch_sequences
        require(micro is None or micro >= 1, "micro_batch_sequences", micro, "null or at least 1")
        for name in ("batch_tokens", "newton_schulz_steps", "log_every_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("matrix_lr", "embed_lr", "scalar_lr"):
            require(self._number(name, 1.0) > 0, name, getattr(self, name), "above 0")
        for name in (
            "warmup_steps",
            "muon_momentum_warmup_steps",
            "weight_decay",
            "weight_decay_end_frac",
            "grad_clip",
        ):
            require(self._number(name, 0.0) >= 0, name, getattr(self, name), "0 or more")
        for name in ("muon_momentum", "muon_momentum_start", "adam_beta1", "adam_beta2", "min_lr_frac"):
            require(0 <= self._number(name, 0.0) < 1, name, getattr(self, name), "at least 0 and below 1")
        low, high = self.muon_momentum_start, self.muon_momentum
        cycles = isinstance(self.muon_momentum_warmup_steps, MomentumCycle)
        require(low < high or not cycles, "muon_momentum_start", low, f"below muon_momentum ({high}), the cycle's peak")
        require(
            self.document_bos_id is None or self.document_bos_id >= 0,
            "document_bos_id",
            self.document_bos_id,
            "null or a token id",
        )
        self._check_warmdown()
        self._check_loops()
        self._check_stages("context_stages", self.context_stages)
        if self.quantization is not None:
            self._check_reached("quantization.from_frac", self.quantization.from_frac)
        if isinstance(self.average, EmaConfig | SparseEmaConfig):
            self._check_reached("average.from_frac", self.average.from_frac)

    def _number(self, name: str, otherwise: float) -> float:
        """Return a setting that is one number; a longer form has checked itself."""
        value = getattr(self, name)
        return value if isinstance(value, int | float) else otherwise

    def _check_warmdown(self) -> None:
        """Refuse a warm-down that could never lower the learning rate, and settings that wait for one in vain."""
        frac, steps, max_steps = self.warmdown_frac, self.warmdown_steps, self.max_steps
        require(frac is None or steps is None, "warmdown_steps", steps, "null beside warmdown_frac: set one of them")
        require(frac is None or 0 < frac <= 1, "warmdown_frac", frac, "null or a share above 0 and at most 1")
        require(steps is None or steps >= 2, "warmdown_steps", steps, "null or at least 2, or it would never fire")
        if frac is None and steps is None:
            require(self.min_lr_frac == 0, "min_lr_frac", self.min_lr_frac, "0 without a warm-down")
            require(
                self.weight_decay_end_frac == 1,
                "weight_decay_end_frac",
                self.weight_decay_end_frac,
                "1 without a warm-down to follow",
            )
            require(
                not isinstance(self.average, SwaConfig),
                "average.kind",
                "swa",
                "ema or null without a warm-down to average over",
            )
        elif max_steps is not None:
            length = steps if frac is None else frac * max_steps
            assert length is not None, "one of them is set"
            require(length > 1, "warmdown_frac", frac, f"above 1 / max_steps (1 / {max_steps}), or it would never fire")
            require(
                length <= max_steps,
                "warmdown_steps",
                steps,
                f"at most max_steps ({max_steps}), or the learning rate never peaks",
            )
            if isinstance(self.average, SwaConfig):
                require(
                    2 * self.average.every_steps < length,
                    "average.every_steps",
                    self.average.every_steps,
                    f"below half of the warm-down's {length:.0f} steps",
                )

    def _check_loops(self) -> None:
        every = self.all_loops_every_steps
        require(
            every is None or 2 <= every <= (self.max_steps or every),
            "all_loops_every_steps",
            every,
            "null, or at least 2 and at most max_steps",
        )
        self._check_stages("loop_stages", self.loop_stages)
        for i, stage in enumerate(self.loop_stages or ()):
            require(stage.loops >= 1, f"loop_stages[{i}].loops", stage.loops, "at least 1")
        require(
            self.context_stages is None or self.document_bos_id is None,
            "document_bos_id",
            self.document_bos_id,
            "null beside context_stages, which cut anywhere; model.attention.document_bos_id keeps documents apart",
        )

    def _check_stages(self, name: str, stages: tuple[LoopStage | ContextStage, ...] | None) -> None:
        """Refuse stages that do not follow each other from the start of the run, each with steps of its own."""
        require(stages is None or len(stages) > 0, name, [], "null or at least one stage")
        for i, stage in enumerate(stages or ()):
            where, last = f"{name}[{i}].from_frac", (stages or ())[i - 1].from_frac
            require(
                stage.from_frac > last if i else stage.from_frac == 0,
                where,
                stage.from_frac,
                f"above the stage before ({last})" if i else "0: the first stage begins the run",
            )
            self._check_reached(where, stage.from_frac)

    def _check_reached(self, field: str, from_frac: float) -> None:
        """Refuse a share of the budget at which no step starts."""
        last = 1.0 if self.max_steps is None else (self.max_steps - 1) / self.max_steps
        reached = 0 <= from_frac < 1 and from_frac <= last
        require(reached, field, from_frac, f"a share of the budget at which a step starts: below 1, at most {last:.4g}")
