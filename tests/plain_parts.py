"""The parts of the plain forward pass: norms, rotations, masks and attention, spelled out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Run",
    "activation_of",
    "attention",
    "causal",
    "layer_norm",
    "output_bias",
    "rms_norm",
    "rotary_of",
    "split",
    "turn",
    "window_of",
]

Config = Mapping[str, Any]
Rotation = Callable[[Tensor], Tensor]


class Run:
    """The weights by name, what is to be replaced, and what was seen so far."""

    def __init__(self, weights: dict[str, Tensor], replacements: Mapping[str, Tensor]) -> None:
        """Starts a run in which nothing is seen or written yet."""
        self.weights, self.replacements = weights, replacements
        self.trace: dict[str, Tensor] = {}
        self.written: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        """The weights saved under that name."""
        return self.weights[name]

    def bias(self, name: str, like: Tensor) -> Tensor:
        """A bias, or zeros of the size of ``like``'s last dimension where none was saved."""
        return self.weights.get(name, torch.zeros(like.shape[-1], dtype=torch.float64))

    def write(self, component: str, contribution: Tensor, seen_as: str | None = None) -> Tensor:
        """What the component adds to the stream: its contribution or what replaces it."""
        if seen_as is not None:
            self.trace[seen_as] = contribution
        self.written.add(component)
        return self.replacements.get(component, contribution)


def attention(
    run: Run,
    layer: int,
    q: list[Tensor],
    k: list[Tensor],
    v: list[Tensor],
    w_o: Tensor,
    visible: Tensor,
    scale: float,
) -> Tensor:
    """Sum over heads of what they write; ``w_o`` is ``[heads * d_head, d_model]``, without bias."""
    total = torch.zeros(*q[0].shape[:2], w_o.shape[1], dtype=torch.float64)
    d_head, shared_by = q[0].shape[-1], len(q) // len(k)
    patterns, mixed, contributions = [], [], []
    for head, query in enumerate(q):
        key, value = k[head // shared_by], v[head // shared_by]
        scores = torch.einsum("spd,std->spt", query, key) * scale
        scores = torch.where(visible, scores, -torch.inf)
        weight = torch.exp(scores - scores.amax(-1, keepdim=True))
        pattern = weight / weight.sum(-1, keepdim=True)
        z = torch.einsum("spt,std->spd", pattern, value)
        contribution = z @ w_o[head * d_head : (head + 1) * d_head]
        total = total + run.write(f"a{layer}.h{head}", contribution)
        patterns.append(pattern)
        mixed.append(z)
        contributions.append(contribution)
    run.trace[f"pattern.{layer}"] = torch.stack(patterns, dim=1)
    run.trace[f"z.{layer}"] = torch.stack(mixed, dim=2)
    run.trace[f"heads.{layer}"] = torch.stack(contributions, dim=2)
    return total


def output_bias(run: Run, layer: int, bias: Tensor) -> Tensor:
    """The attention output bias, which belongs to no head and stays under every ablation."""
    run.trace[f"b_O.{layer}"] = bias
    return bias


def split(x: Tensor, parts: int) -> list[Tensor]:
    """``[sequence, position, parts * size]`` as a list over heads."""
    return list(x.chunk(parts, dim=-1))


def causal(tokens: Tensor) -> Tensor:
    """``[query, key]``: whether the key is not after the query."""
    position = torch.arange(tokens.shape[1])
    return position[None, :] <= position[:, None]


def window_of(config: Config, layer: int) -> int | None:
    """How many keys, itself included, a query of this layer sees; None = all before it."""
    window = config.get("sliding_window", 4096)
    if config["model_type"] == "mistral":
        return window
    if config["model_type"] not in ("qwen2", "qwen3") or not config.get("use_sliding_window"):
        return None
    if config.get("layer_types") is not None:
        return window if config["layer_types"][layer] == "sliding_attention" else None
    return window if layer >= config.get("max_window_layers", 28) else None


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last dimension, with the biased variance."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * gain + bias


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """The norm that neither centres nor shifts."""
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * gain


def activation_of(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function of that name in a configuration."""
    return {
        "relu": lambda x: torch.where(x > 0, x, 0.0),
        "silu": lambda x: x / (1 + torch.exp(-x)),
        "swish": lambda x: x / (1 + torch.exp(-x)),
        "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
        "gelu_new": lambda x: (
            0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        ),
    }[name]


def rotary_of(config: Config, d_head: int, default_fraction: float) -> Rotation:
    """The rotation of Hugging Face models: dimension i turns with i + half of the turned ones."""
    rope = {  # older keys first: what today's or a scaling say counts more
        "rope_theta": config.get("rope_theta", config.get("rotary_emb_base", 10000.0)),
        "partial_rotary_factor": config.get("rotary_pct", default_fraction),
        **(config.get("rope_scaling") or config.get("rope_parameters") or {}),
    }
    dim = int(d_head * rope["partial_rotary_factor"])
    pairs = torch.arange(dim // 2, dtype=torch.float64)
    frequencies = float(rope["rope_theta"]) ** (-2 * pairs / dim)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        frequencies = frequencies / rope["factor"]
    elif kind == "llama3":
        frequencies = torch.stack([_llama3(f, rope) for f in frequencies])
    else:
        assert kind == "default", kind

    def rotate(x: Tensor) -> Tensor:
        turned = turn(x[..., : dim // 2], x[..., dim // 2 : dim], frequencies)
        return torch.cat([*turned, x[..., dim:]], dim=-1)

    return rotate


def _llama3(frequency: Tensor, rope: Config) -> Tensor:
    """Long waves are slowed by the factor, short ones kept, those between interpolated."""
    turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequency + (1 - kept) * frequency / rope["factor"]


def turn(a: Tensor, b: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Turns each pair (a, b) by position * frequency, as complex numbers."""
    angle = torch.arange(a.shape[1], dtype=torch.float64)[:, None] * frequencies
    turned = torch.complex(a, b) * torch.polar(torch.ones_like(angle), angle)
    return turned.real, turned.imag
