"""The `train` section: budget and optimizer settings."""

from dataclasses import dataclass
from typing import Literal

from pipeline.checks import require


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run: Muon on matrices, AdamW on the rest, linear warm-down over the end of the budget."""

    max_steps: int | None
    """Step budget; null leaves the wall clock in charge."""
    max_seconds: float | None
    """Wall-clock budget in seconds; null leaves the step budget in charge. With both, whichever ends first."""
    batch_tokens: int
    """Tokens per optimizer step over all processes."""
    micro_batch_sequences: int | None
    """Sequences per forward and backward pass of a process: bounds memory, changes rounding only; null takes the
    process's whole share of a batch at once."""
    warmup_steps: int
    """Steps over which the learning rate rises linearly to its peak."""
    warmdown_frac: float
    """Last share of the budget over which the learning rate falls linearly."""
    min_lr_frac: float
    """Learning rate at the end over its peak."""
    matrix_lr: float
    """Muon's peak learning rate for matrices."""
    embed_lr: float
    """AdamW's peak learning rate for embedding tables."""
    scalar_lr: float
    """AdamW's peak learning rate for gains, gates and scales."""
    muon_momentum: float
    """Muon's Nesterov momentum after its warm-up."""
    muon_momentum_start: float
    """Muon's momentum at step 0."""
    muon_momentum_warmup_steps: int
    """Steps over which Muon's momentum rises linearly."""
    newton_schulz_steps: int
    """Newton-Schulz iterations of Muon."""
    adam_beta1: float
    """AdamW's first-moment decay."""
    adam_beta2: float
    """AdamW's second-moment decay."""
    weight_decay: float
    """Decoupled weight decay on matrices and tables; gains, gates and scales have none."""
    grad_clip: float
    """Largest global gradient norm; 0 is off."""
    precision: Literal["bf16", "fp32"]
    """Autocast dtype of the forward pass; weights and optimizer stay fp32."""
    compile: bool
    """Compile the model with torch.compile (worth it on GPUs)."""
    log_every_steps: int
    """A log line and a curve row every n steps."""

    def __post_init__(self) -> None:
        require(self.max_steps is not None or self.max_seconds is not None, "max_steps", self.max_steps,
                "a number here or in max_seconds: a run needs a budget")  # fmt: skip
        require(self.max_steps is None or self.max_steps >= 1, "max_steps", self.max_steps, "null or at least 1")
        require(self.max_seconds is None or self.max_seconds > 0, "max_seconds", self.max_seconds, "null or above 0")
        require(self.micro_batch_sequences is None or self.micro_batch_sequences >= 1, "micro_batch_sequences",
                self.micro_batch_sequences, "null or at least 1")  # fmt: skip
        for name in ("warmdown_frac", "min_lr_frac"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a share between 0 and 1")
        for name in ("batch_tokens", "newton_schulz_steps", "log_every_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("matrix_lr", "embed_lr", "scalar_lr"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("warmup_steps", "muon_momentum_warmup_steps", "weight_decay", "grad_clip"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("muon_momentum", "muon_momentum_start", "adam_beta1", "adam_beta2"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
