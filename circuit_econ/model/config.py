"""What a model computes, its weights apart: one record for every architecture."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from circuit_econ.errors import CheckpointError

__all__ = ["Activation", "ModelConfig", "Norm", "Rotary"]


class Norm(StrEnum):
    """Normalisation before each sublayer; gains and biases are weights, and may be absent."""

    LAYER = "layer"
    RMS = "rms"
    NONE = "none"


class Activation(StrEnum):
    """Pointwise nonlinearity of an MLP."""

    RELU = "relu"
    GELU = "gelu"  # exact, by the error function
    GELU_TANH = "gelu_tanh"
    SILU = "silu"


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding.

    Attributes:
        dim: Rotated dimensions of each head, the first ones; even.
        base: Base of the geometric frequencies.
        adjacent: Whether coordinates (0, 1), (2, 3) … rotate together, else i and i + dim/2.
        scaling: ``None``, or ``("linear", factor)``, or
            ``("llama3", factor, low_freq_factor, high_freq_factor, original_context)``.
    """

    dim: int
    base: float
    adjacent: bool
    scaling: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if self.dim <= 0 or self.dim % 2:
            raise CheckpointError(f"rotary dimensions must be positive and even, not {self.dim}")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The function a model computes, its weights apart.

    ``windows[l]`` is how many positions a query of layer l sees, itself included (None = all);
    ``attention_scales[l]`` multiplies the scores of layer l.
    """

    architecture: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int | None  # None: attention only
    n_ctx: int
    d_vocab: int
    d_vocab_out: int
    norm: Norm
    final_norm: Norm
    eps: float
    activation: Activation
    gated: bool
    parallel: bool
    causal: bool
    rotary: Rotary | None  # None: learned positions are added to the stream
    attention_scales: tuple[float, ...]
    windows: tuple[int | None, ...]
    # Which optional tensors there are.
    tied: bool  # the unembedding is the embedding
    norm_gains: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    unembed_bias: bool = False
    clip_qkv: float | None = None
    qk_norm: bool = False

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"{self.n_heads} heads cannot share {self.n_kv_heads} key-value heads evenly"
            )
        if not len(self.attention_scales) == len(self.windows) == self.n_layers:
            raise CheckpointError("attention_scales and windows need one entry per layer")

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.n_heads // self.n_kv_heads
