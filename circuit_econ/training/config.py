"""What is trained and how: the model, the optimiser, the checkpoints."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

import numpy as np

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.evaluation import TrainingData
from circuit_econ.evaluation.settings import check_number

__all__ = ["Activation", "Normalization", "Optimiser", "Positions", "Schedule", "TrainingConfig"]

_FORMAT: Final = 1
"""Part of every digest: raised when the same configuration would train another model."""


# Members are named like their values, since configuration files look enums up by name.
class Optimiser(StrEnum):
    """Which update rule."""

    adamw = "adamw"
    sgd = "sgd"


class Schedule(StrEnum):
    """How the learning rate goes on after the warm-up: level, or to 0 at the last step."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class Normalization(StrEnum):
    """Norm before every sublayer; ``Pre``: without trained gains and biases."""

    LN = "LN"
    LNPre = "LNPre"
    RMS = "RMS"
    RMSPre = "RMSPre"


class Positions(StrEnum):
    """How positions enter: learned vectors, or rotation of queries and keys."""

    standard = "standard"
    rotary = "rotary"


class Activation(StrEnum):
    """Nonlinearity of the MLPs."""

    relu = "relu"
    gelu = "gelu"
    gelu_new = "gelu_new"
    silu = "silu"


@dataclass
class TrainingConfig:
    """One training run. Names of enums may be given as strings.

    Attributes:
        n_layers: Blocks.
        n_heads: Heads per block.
        d_model: Width of the residual stream.
        d_head: Width of a head; by default ``d_model // n_heads``.
        d_mlp: Neurons of an MLP; by default ``4 * d_model``.
        attn_only: Whether blocks have no MLP.
        act_fn: Nonlinearity of the MLPs.
        normalization_type: Norm before every sublayer and before the logits; ``None`` for none.
        positional_embedding_type: How positions enter.
        n_ctx: Longest sequence; by default that of the data.
        optimiser: Update rule.
        learning_rate: Step size after the warm-up.
        weight_decay: λ: weight matrices (embeddings and unembedding included, gains and biases not)
            shrink by the factor 1 - learning rate x λ at every step, apart from the gradient under
            either optimiser.
        betas: The two averaging factors of ``adamw``.
        momentum: Of ``sgd``.
        gradient_clip: Largest norm of the whole gradient; ``None`` for no limit.
        warmup: Steps over which the learning rate rises linearly.
        schedule: What the learning rate does afterwards.
        steps: Optimiser steps.
        batch: Sequences per step.
        checkpoints: At most so many checkpoints: the first at step 0, the others log-spaced from 1
            to ``steps``.
        checkpoint_steps: These checkpoints instead; training ends at the last of them.
        seed: Of the initial weights; and of the batches, where an evaluation set is given as data.
    """

    n_layers: int = 2
    n_heads: int = 4
    d_model: int = 64
    d_head: int | None = None
    d_mlp: int | None = None
    attn_only: bool = False
    act_fn: Activation | str = Activation.gelu
    normalization_type: Normalization | str | None = Normalization.LN
    positional_embedding_type: Positions | str = Positions.standard
    n_ctx: int | None = None
    optimiser: Optimiser | str = Optimiser.adamw
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    momentum: float = 0.9
    gradient_clip: float | None = 1.0
    warmup: int = 20
    schedule: Schedule | str = Schedule.constant
    steps: int = 400
    batch: int = 32
    checkpoints: int = 15
    checkpoint_steps: list[int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check everything that does not depend on the data."""
        self.act_fn = _member(Activation, self.act_fn, "act_fn")
        if self.normalization_type is not None:
            self.normalization_type = _member(
                Normalization, self.normalization_type, "normalization_type"
            )
        self.positional_embedding_type = _member(
            Positions, self.positional_embedding_type, "positional_embedding_type"
        )
        self.optimiser = _member(Optimiser, self.optimiser, "optimiser")
        self.schedule = _member(Schedule, self.schedule, "schedule")
        self._check_sizes()
        self._check_optimiser()
        self._check_checkpoints()

    def _check_sizes(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "steps", "batch"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("d_head", "d_mlp", "n_ctx"):
            value = getattr(self, name)
            _require(name, value, value is None or value >= 1, "at least 1")
        check_number("seed", self.seed)
        if self.d_head is None and self.d_model % self.n_heads:
            raise ConfigurationError(
                f"d_model={self.d_model} cannot be shared evenly by n_heads={self.n_heads};"
                " change one of them or give d_head"
            )
        if self.positional_embedding_type is Positions.rotary and self.head_width % 2:
            raise ConfigurationError(
                f"rotary positions turn pairs of coordinates: d_head={self.head_width} must be even"
            )

    def _check_optimiser(self) -> None:
        self.betas = list(self.betas)
        pair = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        _require("betas", self.betas, pair, "two numbers from 0 to below 1")
        _require("momentum", self.momentum, 0 <= self.momentum < 1, "from 0 to below 1")
        _require("learning_rate", self.learning_rate, self.learning_rate > 0, "above 0")
        _require("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        clip = self.gradient_clip
        _require("gradient_clip", clip, clip is None or clip > 0, "above 0, or null for no limit")
        within = 0 <= self.warmup <= self.steps
        _require("warmup", self.warmup, within, f"from 0 to steps={self.steps}")

    def _check_checkpoints(self) -> None:
        _require("checkpoints", self.checkpoints, self.checkpoints >= 2, "at least 2")
        if self.checkpoint_steps is None:
            return
        self.checkpoint_steps = sorted(set(self.checkpoint_steps))
        _require(
            "checkpoint_steps",
            self.checkpoint_steps,
            bool(self.checkpoint_steps)
            and self.checkpoint_steps[0] >= 0
            and self.checkpoint_steps[-1] <= self.steps,
            f"steps from 0 to steps={self.steps}",
        )

    @property
    def head_width(self) -> int:
        """Coordinates of a head."""
        return self.d_model // self.n_heads if self.d_head is None else self.d_head

    @property
    def saved_steps(self) -> list[int]:
        """The steps at which checkpoints are written, rising; training ends at the last."""
        if self.checkpoint_steps is not None:
            return self.checkpoint_steps
        spaced = np.geomspace(1, self.steps, self.checkpoints - 1) if self.checkpoints > 2 else []
        return sorted({0, *(int(s) for s in np.rint(spaced)), self.steps})

    def model_fields(self, data: TrainingData) -> dict[str, Any]:
        """The model as fields of ``TransformerBridgeConfig``, as ``config.json`` holds them.

        Raises:
            ConfigurationError: If the sequences are longer than the context.
        """
        n_ctx = data.length if self.n_ctx is None else self.n_ctx
        if n_ctx < data.length:
            raise ConfigurationError(
                f"n_ctx={n_ctx} is shorter than the data's sequences of {data.length} tokens"
            )
        chosen: dict[str, Any] = {
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "d_model": self.d_model,
            "d_head": self.head_width,
            "n_ctx": n_ctx,
            "d_vocab": data.vocabulary,
            "d_vocab_out": data.vocabulary,
            "attn_only": self.attn_only,
            "attention_dir": "causal",
            "normalization_type": _text(self.normalization_type),
            "positional_embedding_type": str(self.positional_embedding_type),
        }
        if not self.attn_only:
            d_mlp = 4 * self.d_model if self.d_mlp is None else self.d_mlp
            chosen |= {"d_mlp": d_mlp, "act_fn": str(self.act_fn)}
        if self.positional_embedding_type is Positions.rotary:
            # What TransformerLens' own model does, whatever the field says; so it says so.
            chosen |= {"rotary_dim": self.head_width, "rotary_adjacent_pairs": True}
        return chosen

    def identity(self, data: TrainingData) -> dict[str, Any]:
        """Everything that decides the weights and which of them are kept, as plain values."""
        chosen = {k: _text(v) if isinstance(v, StrEnum) else v for k, v in asdict(self).items()}
        # What follows from others is not told apart from the same thing said outright.
        for name in ("d_head", "d_mlp", "act_fn", "n_ctx", "checkpoints", "checkpoint_steps"):
            del chosen[name]
        chosen |= self.model_fields(data) | {"saved_steps": self.saved_steps}
        return {"format": _FORMAT, **chosen, "data_digest": data.digest}

    def digest(self, data: TrainingData) -> str:
        """Sixteen hexadecimal digits that name a run of this configuration on these data."""
        text = json.dumps(self.identity(data), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_E = TypeVar("_E", bound=StrEnum)


def _member(kind: type[_E], value: str, what: str) -> _E:
    if value not in list(kind):
        raise unknown(what, value, kind)
    return kind(value)


def _require(name: str, value: object, holds: bool, requirement: str) -> None:
    if not holds:
        raise ConfigurationError(f"{name}={value} must be {requirement}")


def _text(value: str | None) -> str | None:
    return None if value is None else str(value)
