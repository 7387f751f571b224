"""The ablation oracle: a plain TransformerBridge hook loop, one forward pass per ablation.

Every hook proves that it bites: it fires exactly once, and what the stream gains over each block
must equal what its components wrote there, replaced or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

__all__ = [
    "baseline_replacements",
    "components_of",
    "hook_logits",
    "hook_losses",
    "losses_of",
    "reference_activations",
]

_HEAD = re.compile(r"^a(\d+)\.h(\d+)$")
_MLP = re.compile(r"^m(\d+)$")


def components_of(bridge: TransformerBridge) -> list[str]:
    """Everything that can be ablated, in the order of the forward pass."""
    names = ["embed", "pos"] if _has_positions(bridge) else ["embed"]
    for layer in range(bridge.cfg.n_layers):
        names += [f"a{layer}.h{head}" for head in range(bridge.cfg.n_heads)]
        if not bridge.cfg.attn_only:
            names.append(f"m{layer}")
    return names


def losses_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats summed over the scored positions of each sequence; -100 is not scored."""
    log_probabilities = torch.log_softmax(logits.double(), dim=-1)
    picked = log_probabilities.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -torch.where(targets == -100, 0.0, picked).sum(-1)


def hook_losses(
    bridge: TransformerBridge,
    tokens: Tensor,
    targets: Tensor,
    replacements: Mapping[str, Tensor],
) -> Tensor:
    """Losses ``[sequence]`` with components replaced, all of them at once.

    Args:
        bridge: The model.
        tokens: ``[sequence, position]``.
        targets: ``[sequence, position]`` in the output vocabulary; -100 is not scored.
        replacements: By component name (``a0.h1``, ``m0``, ``embed``, ``pos``): what it contributes
            ``[sequence, position, d_model]``, or for a head what its ``hook_z`` carries
            ``[sequence, position, d_head]``.
    """
    return losses_of(hook_logits(bridge, tokens, replacements), targets)


def hook_logits(
    bridge: TransformerBridge, tokens: Tensor, replacements: Mapping[str, Tensor]
) -> Tensor:
    """Logits ``[sequence, position, vocabulary]`` under :func:`hook_losses`' replacements."""
    unknown = set(replacements) - set(components_of(bridge))
    assert not unknown, f"no such component: {sorted(unknown)}"
    assert bridge.cfg.d_head != bridge.cfg.d_model, "z and contribution cannot be told apart"
    sites = _Sites(bridge, replacements)
    with torch.no_grad():
        logits = bridge.run_with_hooks(tokens, fwd_hooks=sites.hooks())
    sites.check()
    return logits


def reference_activations(bridge: TransformerBridge, tokens: Tensor) -> dict[str, Tensor]:
    """What each component computes: heads as ``z`` ``[sequence, position, d_head]``.

    MLPs, ``embed`` and ``pos`` as what they contribute, ``[sequence, position, d_model]``.
    """
    sites = _Sites(bridge, {})
    with torch.no_grad():
        bridge.run_with_hooks(tokens, fwd_hooks=sites.hooks())
    return {component: sites.computed(component) for component in components_of(bridge)}


def baseline_replacements(
    bridge: TransformerBridge,
    evaluation_tokens: Tensor,
    reference_tokens: Tensor,
    component: str,
    baseline: str,
    donors: Tensor | None = None,
) -> Tensor:
    """What replaces a component under a baseline (economy, section 2).

    Args:
        bridge: The model.
        evaluation_tokens: ``[sequence, position]``; only their shape matters.
        reference_tokens: ``[reference sequence, position]``, of the same length.
        component: ``a0.h1``, ``m0``, ``embed`` or ``pos``.
        baseline: ``mean`` (over reference positions, position 0 apart), ``mean-position``,
            ``zero`` or ``resample``.
        donors: For ``resample``: a reference sequence per evaluation sequence.

    Returns:
        ``[evaluation sequence, position, d_head]`` for heads, else ``[…, d_model]``.
    """
    reference = reference_activations(bridge, reference_tokens)[component]
    sequences, positions = evaluation_tokens.shape
    assert reference.shape[1] == positions, "reference sequences have another length"
    replacement = torch.zeros(sequences, positions, reference.shape[-1], dtype=reference.dtype)
    for sequence in range(sequences):
        for position in range(positions):
            if baseline == "mean":
                pool = reference[:, :1] if position == 0 else reference[:, 1:]
                replacement[sequence, position] = pool.mean((0, 1))
            elif baseline == "mean-position":
                replacement[sequence, position] = reference[:, position].mean(0)
            elif baseline == "resample":
                assert donors is not None, "resample needs donors"
                replacement[sequence, position] = reference[donors[sequence], position]
            else:
                assert baseline == "zero", baseline
    return replacement


_LAST = "ln_final.hook_in"


class _Sites:
    """The hooks of one run: they watch every place of the stream and replace what is asked."""

    def __init__(self, bridge: TransformerBridge, replacements: Mapping[str, Tensor]) -> None:
        self.bridge, self.replacements = bridge, replacements
        self.fired: dict[str, int] = {}
        self.seen: dict[str, Tensor] = {}  # what left the hook
        self.before: dict[str, Tensor] = {}  # what came to the hook

    def hooks(self) -> list[tuple[str | Callable[..., Any], Callable[..., Any]]]:
        """Names of hooks with what runs there; read-only where nothing is replaced."""
        changes: dict[str, Callable[[Tensor], Tensor]] = {
            "hook_embed": partial(self._whole, "embed")
        }
        if _has_positions(self.bridge):
            changes["hook_pos_embed"] = partial(self._whole, "pos")
        for layer in range(self.bridge.cfg.n_layers):
            block = f"blocks.{layer}"
            changes[f"{block}.hook_resid_pre"] = _unchanged
            changes[f"{block}.attn.hook_z"] = partial(self._z, layer)
            changes[f"{block}.hook_attn_out"] = partial(self._attention, layer)
            if not self.bridge.cfg.attn_only:
                changes[f"{block}.hook_mlp_out"] = partial(self._whole, f"m{layer}")
            changes[f"{block}.hook_resid_post"] = _unchanged
        changes[_LAST] = _unchanged
        self.fired = dict.fromkeys(changes, 0)
        return [(name, partial(self._fire, name, change)) for name, change in changes.items()]

    def computed(self, component: str) -> Tensor:
        """What the component computed, before any replacement of its own."""
        if component in ("embed", "pos"):
            return self.before["hook_embed" if component == "embed" else "hook_pos_embed"]
        if match := _MLP.match(component):
            return self.before[f"blocks.{match[1]}.hook_mlp_out"]
        match = _HEAD.match(component)
        assert match is not None, component
        return self.before[f"blocks.{match[1]}.attn.hook_z"][:, :, int(match[2])]

    def check(self) -> None:
        """Every hook fired once, and what was put somewhere is what the stream then held."""
        for name, count in self.fired.items():
            assert count == 1, f"{name} fired {count} times"
        stream = self._left("embed")
        if _has_positions(self.bridge):
            stream = stream + self._left("pos")
        _assert_same(self.seen["blocks.0.hook_resid_pre"], stream, "stream before layer 0")
        for layer in range(self.bridge.cfg.n_layers):
            stream = stream + self._written_by_attention(layer)
            if not self.bridge.cfg.attn_only:
                stream = stream + self._left(f"m{layer}")
            after = self.seen[f"blocks.{layer}.hook_resid_post"]
            _assert_same(after, stream, f"stream after layer {layer}")
            last = layer + 1 == self.bridge.cfg.n_layers
            reader = _LAST if last else f"blocks.{layer + 1}.hook_resid_pre"
            _assert_same(self.seen[reader], stream, f"stream at {reader}")

    def _written_by_attention(self, layer: int) -> Tensor:
        """Sum of the heads' contributions as they should be now, and the output bias."""
        heads = _contributions(self.bridge, layer, self.seen[f"blocks.{layer}.attn.hook_z"])
        for head in range(self.bridge.cfg.n_heads):
            replacement = self._given(layer, head, self.bridge.cfg.d_model)
            if replacement is not None:
                heads[:, :, head] = replacement
        bias = self.bridge.blocks[layer].attn.b_O
        return heads.sum(2) if bias is None else heads.sum(2) + bias.detach()

    def _given(self, layer: int, head: int, size: int) -> Tensor | None:
        """What replaces the head, if it is given in the space of that size."""
        replacement = self.replacements.get(f"a{layer}.h{head}")
        return replacement if replacement is not None and replacement.shape[-1] == size else None

    def _left(self, component: str) -> Tensor:
        """What the component has written: what replaces it, or what it computed."""
        replacement = self.replacements.get(component)
        return self.computed(component) if replacement is None else replacement

    def _fire(self, name: str, change: Callable[[Tensor], Tensor], x: Tensor, hook: Any) -> Tensor:
        self.fired[name] += 1
        self.before[name] = x.clone()
        x = change(x)
        self.seen[name] = x.clone()
        return x

    def _whole(self, component: str, x: Tensor) -> Tensor:
        replacement = self.replacements.get(component)
        if replacement is None:
            return x
        assert x.shape == replacement.shape, (component, x.shape, replacement.shape)
        return replacement.to(x.dtype)

    def _z(self, layer: int, z: Tensor) -> Tensor:
        z = z.clone()
        assert z.shape[2:] == (self.bridge.cfg.n_heads, self.bridge.cfg.d_head), z.shape
        for head in range(z.shape[2]):
            replacement = self._given(layer, head, z.shape[3])
            if replacement is not None:
                z[:, :, head] = replacement
        return z

    def _attention(self, layer: int, attention: Tensor) -> Tensor:
        heads = _contributions(self.bridge, layer, self.seen[f"blocks.{layer}.attn.hook_z"])
        for head in range(self.bridge.cfg.n_heads):
            replacement = self._given(layer, head, attention.shape[-1])
            if replacement is not None:
                attention = attention + replacement - heads[:, :, head]
        return attention


def _unchanged(x: Tensor) -> Tensor:
    return x


def _has_positions(bridge: TransformerBridge) -> bool:
    return bridge.cfg.positional_embedding_type == "standard"


def _contributions(bridge: TransformerBridge, layer: int, z: Tensor) -> Tensor:
    """``[sequence, position, head, d_model]``: what the heads write, without the output bias."""
    return torch.einsum("sphd,hdm->sphm", z, bridge.blocks[layer].attn.W_O.detach())


def _assert_same(seen: Tensor, expected: Tensor, what: str) -> None:
    error = (seen - expected).abs().max().item()
    scale = expected.abs().max().item()
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}[seen.dtype]
    assert error <= tolerance * max(scale, 1.0), f"{what}: off by {error:.1e} of {scale:.1e}"
