"""Models worked out on paper: gates of two heads, and an exact induction circuit."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from circuit_econ.model import Format, Model, Source

SHARP = 60.0
"""Logit of the right answer: e^-60 is nothing in float64."""


def gate(kind: str) -> Model:
    """One layer whose MLP answers token 0 if both heads speak (``and``) or one does (``or``).

    Both heads read a constant 1 and write it into coordinate 1; the MLP turns their sum s into
    relu(s − 1), or relu(s) − relu(s − 1) which is min(s, 1), and writes it into coordinate 2.
    Vocabulary 4, d_model 4.
    """
    config = _config(d_model=4, d_head=1, n_heads=2, n_layers=1, n_ctx=6, d_vocab=4, d_mlp=2)
    t = _zeros(config)
    t["embed.W_E"][:, 0] = 1
    for head in range(2):
        t["blocks.0.attn.W_V"][head, 0, 0] = 1
        t["blocks.0.attn.W_O"][head, 0, 1] = 1
    t["blocks.0.mlp.W_in"][1] = 1
    t["blocks.0.mlp.b_in"][1] = -1
    weights = {"and": (0, 1), "or": (1, -1)}[kind]
    for neuron, weight in enumerate(weights):
        t["blocks.0.mlp.W_out"][neuron, 2] = weight
    t["unembed.W_U"][2, 0] = SHARP
    return _model(config, t)


def induction(vocabulary: int = 7, length: int = 11) -> Model:
    """Head 0 of layer 0 copies the previous token; head 0 of layer 1 attends where that is mine.

    The other heads have queries, keys and values but write nothing. The stream holds position,
    token, previous token and answer, each one-hot.
    """
    v, n = vocabulary, length
    config = _config(
        d_model=n + 3 * v, d_head=max(n, v), n_heads=2, n_layers=2, n_ctx=n, d_vocab=v,
        attn_only=True,
    )  # fmt: skip
    t = _zeros(config)
    token, previous, answer = n, n + v, n + 2 * v
    large = SHARP * math.sqrt(config["d_head"])
    t["pos_embed.W_pos"][:, :n] = torch.eye(n)
    t["embed.W_E"][:, token:previous] = torch.eye(v)
    first, second = "blocks.0.attn.", "blocks.1.attn."
    # Query of position i meets the key of position i − 1.
    t[first + "W_Q"][0, 1:n, : n - 1] = large * torch.eye(n - 1)
    t[first + "W_K"][0, :n, :n] = torch.eye(n)
    t[first + "W_V"][0, token:previous, :v] = torch.eye(v)
    t[first + "W_O"][0, :v, previous:answer] = torch.eye(v)
    # Query by my token, key by the previous token, value: the token there.
    t[second + "W_Q"][0, token:previous, :v] = large * torch.eye(v)
    t[second + "W_K"][0, previous:answer, :v] = torch.eye(v)
    t[second + "W_V"][0, token:previous, :v] = torch.eye(v)
    t[second + "W_O"][0, :v, answer:] = torch.eye(v)
    t["unembed.W_U"][answer:] = SHARP * torch.eye(v)
    generator = torch.Generator().manual_seed(0)
    for block in (first, second):
        for name in ("W_Q", "W_K", "W_V"):
            idle = t[block + name][1]
            idle += torch.randn(idle.shape, generator=generator)
    return _model(config, t)


PROGRAM = frozenset(
    {
        ("a0.h0", "m0", "in"),
        ("m0", "a1.h0", "k"),
        ("a0.h0", "a1.h0", "v"),
        ("a1.h0", "m1", "in"),
        ("m1", "logits", "in"),
    }
)
"""All edges of :func:`program` that matter."""


def program(tokens: int = 8, length: int = 9) -> Model:
    """Five edges: look where the token after mine was seen, and answer two later.

    Head 0 of layer 0 writes the previous token p. The MLP of layer 0 writes p + 1. Head 0 of layer
    1 attends where that is my token and copies p from there. The MLP of layer 1 writes p + 2, once
    p is there by more than half: turned up halfway the program is silent, so what only decides
    where to look, and has long done so when the answer comes, earns nothing on the way. Everybody
    else writes at random where hardly anybody reads. Token ``tokens`` is the first of a sequence.
    """
    v, n, spare = tokens + 1, length, 3
    config = _config(
        d_model=n + 5 * v + spare, d_head=max(n, v), n_heads=2, n_layers=2, n_ctx=n, d_vocab=v,
        d_mlp=v + 1,
    )  # fmt: skip
    t = _zeros(config)
    token, previous, after, found, answer, rest = (n + at * v for at in range(6))
    large, one = SHARP * math.sqrt(config["d_head"]), torch.eye(v)
    t["pos_embed.W_pos"][:, :n] = torch.eye(n)
    t["embed.W_E"][:, token:previous] = one
    first, second = "blocks.0.", "blocks.1."
    t[first + "attn.W_Q"][0, 1:n, : n - 1] = large * torch.eye(n - 1)
    t[first + "attn.W_K"][0, :n, :n] = torch.eye(n)
    t[first + "attn.W_V"][0, token:previous, :v] = one
    t[first + "attn.W_O"][0, :v, previous:after] = one
    t[first + "mlp.W_in"][previous:after, :v] = one
    t[first + "mlp.W_out"][:v, after:found] = _next(tokens, 1)
    t[second + "attn.W_Q"][0, token:previous, :v] = large * one
    t[second + "attn.W_K"][0, after:found, :v] = one
    t[second + "attn.W_V"][0, previous:after, :v] = one
    t[second + "attn.W_O"][0, :v, found:answer] = one
    t[second + "mlp.W_in"][found:answer, :v] = one
    t[second + "mlp.b_in"][:v] = -0.5
    t[second + "mlp.W_out"][:v, answer:rest] = 2 * _next(tokens, 2)
    t["unembed.W_U"][answer:rest] = SHARP * one
    generator = torch.Generator().manual_seed(0)

    def scatter(rows: Tensor, size: float) -> None:
        rows += size * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)

    for block in (first, second):
        for name in ("W_Q", "W_K", "W_V"):
            scatter(t[f"{block}attn.{name}"][1], 0.3)
        scatter(t[block + "attn.W_O"][1, :, rest:], 0.3)
        scatter(t[block + "mlp.W_in"][:, v:], 0.3)
        scatter(t[block + "mlp.W_out"][v:, rest:], 0.3)
    scatter(t["unembed.W_U"][rest:], 1e-3)
    return _model(config, t)


def answers(sequences: int, tokens: int = 8, length: int = 9) -> tuple[Tensor, Tensor]:
    """What :func:`program` reads, and what it shall answer where it can look."""
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randperm(tokens, generator=generator) for _ in range(sequences)]
    found = torch.stack([torch.cat([torch.tensor([tokens]), row[: length - 1]]) for row in rows])
    targets = torch.full_like(found, -100)
    for row, here in zip(targets, found, strict=True):
        for at in range(2, length):
            before = (here[at] - 1) % tokens
            # It stands at some place, and somebody after it has it as previous token.
            if (here[1:at] == before).any():
                row[at] = (before + 2) % tokens
    return found, targets


def _next(tokens: int, by: int) -> Tensor:
    """From every token to that so many later; the first of a sequence stays."""
    found = torch.eye(tokens + 1)
    found[:tokens, :tokens] = torch.eye(tokens).roll(by, 1)
    return found


def repeated(sequences: int, vocabulary: int = 7, period: int = 5) -> tuple[Tensor, Tensor]:
    """A first token of its own, distinct tokens twice; scored where the next is a repetition.

    The first token is needed: position 0 has no previous one and attends to itself.
    """
    generator = torch.Generator().manual_seed(1)
    halves = torch.stack(
        [torch.randperm(vocabulary - 1, generator=generator)[:period] for _ in range(sequences)]
    )
    first = torch.full((sequences, 1), vocabulary - 1)
    tokens = torch.cat([first, halves, halves], dim=1)
    targets = torch.full_like(tokens, -100)
    targets[:, period + 1 : -1] = tokens[:, period + 2 :]
    return tokens, targets


def _config(**fields: Any) -> dict[str, Any]:
    return {"normalization_type": None, "act_fn": "relu", **fields}


def _zeros(c: dict[str, Any]) -> dict[str, Tensor]:
    d, h, k = c["d_model"], c["n_heads"], c["d_head"]
    shapes = {
        "embed.W_E": (c["d_vocab"], d),
        "pos_embed.W_pos": (c["n_ctx"], d),
        "unembed.W_U": (d, c["d_vocab"]),
    }
    for layer in range(c["n_layers"]):
        a, m = f"blocks.{layer}.attn.", f"blocks.{layer}.mlp."
        shapes |= {a + "W_Q": (h, d, k), a + "W_K": (h, d, k), a + "W_V": (h, d, k)}
        shapes[a + "W_O"] = (h, k, d)
        if not c.get("attn_only"):
            shapes |= {m + "W_in": (d, c["d_mlp"]), m + "b_in": (c["d_mlp"],)}
            shapes |= {m + "W_out": (c["d_mlp"], d)}
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}


def _model(config: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
    source = Source(Format.TRANSFORMER_LENS, config, tensors, "a model on paper")
    return Model.from_source(source, torch.float64)
