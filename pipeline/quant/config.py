"""The `calibrate`, `quantize` and `budget` sections."""

from dataclasses import asdict, dataclass
from typing import Literal

from pipeline.base.checks import require


@dataclass(frozen=True, kw_only=True)
class CodeBits:
    """Bits of a code by what it belongs to, sign included."""

    attention: int
    """Matrices of the attention of blocks that do not loop."""
    mlp: int
    """Matrices of their MLPs."""
    looped: int
    """All matrices of looped blocks."""
    other: int
    """Matrices outside blocks: projections and conditioners."""
    embedding: int
    """The tied embedding."""
    table: int
    """Bigram and value tables."""

    def __post_init__(self) -> None:
        for name, bits in asdict(self).items():
            require(2 <= bits <= 8, name, bits, "2 to 8")


@dataclass(frozen=True, kw_only=True)
class ClipSteps:
    """SDClip: a grid spans `knob` standard deviations of its row."""

    kind: Literal["clip"]
    """Tag of this rule."""
    bits: CodeBits
    """Bits per code; more of them make a finer grid of the same span."""
    embedding_clip_ratio: float
    """Clip of the tied embedding over the clip of matrices, both in row standard deviations."""
    table_clip_ratio: float
    """The same for the bigram and value tables."""
    min_clip_std: float
    """Finest clip the budget search may use, in row standard deviations: the largest file."""
    max_clip_std: float
    """Coarsest clip the budget search may use: the smallest file."""

    def __post_init__(self) -> None:
        for name in ("embedding_clip_ratio", "table_clip_ratio", "min_clip_std"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(
            self.max_clip_std > self.min_clip_std,
            "max_clip_std",
            self.max_clip_std,
            f"above min_clip_std ({self.min_clip_std})",
        )


@dataclass(frozen=True, kw_only=True)
class RateSteps:
    """One exchange rate between loss and bits for every weight: needs calibrate.sensitivity_sequences."""

    kind: Literal["rate"]
    """Tag of this rule."""
    row_exponent: float
    """How far steps of a matrix's rows follow their curvature: 1 fully, 0 not at all."""
    column_exponent: float
    """The same for columns of matrices and of the tied embedding."""
    lookup_exponent: float
    """The same for rows of tables and of the tied embedding."""

    def __post_init__(self) -> None:
        for name in ("row_exponent", "column_exponent", "lookup_exponent"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")


@dataclass(frozen=True, kw_only=True)
class ProvisionalConfig:
    """How the sweeps of calibration quantize: like the artifact, at about its rate."""

    bits_per_weight: float
    """Mean bits of a code; the knob follows from it."""
    steps: ClipSteps | RateSteps
    """How the steps of tensors, rows and columns relate to each other."""
    target_share: float
    """Above 0, sweeps run the float model beside and keep what quantize.target_share needs; sweeps after the first aim
    so far towards sequential targets themselves."""
    damp_frac: float
    """Damping over the mean live diagonal of a Hessian."""

    def __post_init__(self) -> None:
        require(self.bits_per_weight > 0, "bits_per_weight", self.bits_per_weight, "above 0")
        require(0 <= self.target_share <= 1, "target_share", self.target_share, "0 to 1")
        require(self.damp_frac > 0, "damp_frac", self.damp_frac, "above 0")


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Counts of what is scored that protocols may mix in, and the text that their constants are fitted to."""

    tokens: int
    """Tokens of the train split, from its first on."""
    document_orders: tuple[int, ...]
    """Lengths of the contexts counted in a document, ascending."""
    stream_orders: tuple[int, ...]
    """The same in the stream, which comes before the document; none leaves `mixture: stream` out."""

    def __post_init__(self) -> None:
        require(self.tokens >= 2, "tokens", self.tokens, "at least 2")
        for name in ("document_orders", "stream_orders"):
            orders = getattr(self, name)
            sound = all(1 <= order <= 16 for order in orders) and list(orders) == sorted(set(orders))
            require(sound, name, orders, "lengths from 1 to 16, ascending")
        require(len(self.document_orders) > 0, "document_orders", self.document_orders, "at least one length")


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """How many training tokens the statistics come from, and on whose trajectory."""

    num_sequences: int
    """Training sequences of model.context_tokens, spread evenly over the shards."""
    batch_sequences: int
    """Sequences per forward pass."""
    sensitivity_sequences: int
    """Sequences whose gradients tell what an error costs, spread evenly over the others; 0 collects none."""
    sweeps: int
    """Passes over the sequences with the model's own codes in place; 0 stays on the float model's trajectory."""
    provisional: ProvisionalConfig
    """Quantizer settings of the sweeps."""
    mixture: MixtureConfig | None
    """Which constants protocols with a mixture find in the artifact; None: none."""

    def __post_init__(self) -> None:
        require(self.num_sequences >= 1, "num_sequences", self.num_sequences, "at least 1")
        require(self.batch_sequences >= 1, "batch_sequences", self.batch_sequences, "at least 1")
        require(self.sweeps >= 0, "sweeps", self.sweeps, "0 or more")
        require(
            0 <= self.sensitivity_sequences <= self.num_sequences,
            "sensitivity_sequences",
            self.sensitivity_sequences,
            f"0 to num_sequences ({self.num_sequences})",
        )
        require(
            self.sweeps == 0 or self.sensitivity_sequences > 0 or isinstance(self.provisional.steps, ClipSteps),
            "sensitivity_sequences",
            0,
            "above 0: provisional.steps of kind `rate` need it; or sweeps: 0, or provisional.steps of kind `clip`",
        )
        require(
            self.sweeps > 0 or self.provisional.target_share == 0,
            "sweeps",
            0,
            "above 0, which provisional.target_share above 0 needs",
        )


TrellisStates = Literal[4, 8, 16, 32, 64]


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Solver and step rule; one knob moves the steps of all tensors together until the budget is met."""

    solver: Literal["gptq", "nearest"]
    """How codes are chosen: errors pushed onto later columns, or not."""
    trellis_states: TrellisStates | None
    """States of the trellis whose paths codes are; null rounds each code by itself."""
    steps: ClipSteps | RateSteps
    """How the steps of tensors, rows and columns relate to each other."""
    visit_weights: Literal["tokens", "sensitivity"] | tuple[float, ...]
    """How much each pass through a looped matrix counts: by tokens alone, times its sensitivity (which
    calibrate.sensitivity_sequences collects), or times one number per visit."""
    target_share: float
    """How far towards sequential targets codes aim, 0 (at the float weights) to 1: needs it above 0 in
    calibrate.provisional."""
    damp_frac: float
    """Damping over the mean live diagonal of a Hessian."""
    block_columns: int
    """Columns per block of the GPTQ update: speed only, codes do not depend on it."""

    def __post_init__(self) -> None:
        weights = self.visit_weights
        require(
            isinstance(weights, str) or min(weights, default=0) > 0,
            "visit_weights",
            weights,
            "tokens, sensitivity or positive numbers",
        )
        require(
            self.trellis_states is None or isinstance(self.steps, RateSteps),
            "trellis_states",
            self.trellis_states,
            "null: steps of kind `clip` clip codes",
        )
        require(0 <= self.target_share <= 1, "target_share", self.target_share, "0 to 1")
        require(self.damp_frac > 0, "damp_frac", self.damp_frac, "above 0")
        require(self.block_columns >= 1, "block_columns", self.block_columns, "at least 1")


CHALLENGE_LIMIT_BYTES = 16_000_000
"""What code and artifact of a record may have together."""


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """The byte budget of a submission."""

    limit_bytes: int
    """Code plus artifact may not exceed this (decimal bytes)."""
    code_reserve_bytes: int
    """Bytes set aside for train_gpt.py; package fails when the code is larger."""
    tolerance_frac: float
    """The artifact lands at most this share of limit_bytes below its budget."""

    def __post_init__(self) -> None:
        require(self.limit_bytes >= 1, "limit_bytes", self.limit_bytes, "at least 1")
        require(
            0 <= self.code_reserve_bytes < self.limit_bytes,
            "code_reserve_bytes",
            self.code_reserve_bytes,
            f"0 or more and below limit_bytes ({self.limit_bytes})",
        )
        require(0 < self.tolerance_frac < 1, "tolerance_frac", self.tolerance_frac, "a share between 0 and 1")
