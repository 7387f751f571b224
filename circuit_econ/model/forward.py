"""One forward pass over canonical weights that starts at any place of the stream and carries edits.

The residual stream is followed through *places*: ``2l`` is the stream that enters layer ``l``,
``2l + 1`` the stream between its attention and its MLP (in a parallel block, and where there is no
MLP, nothing starts there), and ``2 n_layers`` the stream that enters the final norm. Shapes are
written S (sequence), T (position), H (head), D (d_model), K (d_head).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from circuit_econ.errors import CheckpointError
from circuit_econ.model import rotary
from circuit_econ.model.architectures import read_config
from circuit_econ.model.config import Activation, ModelConfig, Norm
from circuit_econ.model.losses import negative_log_likelihoods
from circuit_econ.model.products import Products, Rounding
from circuit_econ.model.records import Edit, Ports, Trace, edit_heads, edit_mlp
from circuit_econ.model.source import Format, Source
from circuit_econ.model.transfer import send
from circuit_econ.model.weights import Weights, native, read_weights
from circuit_econ.tables import head_name, mlp_name, output_bias_name

__all__ = ["Edit", "Model", "Ports", "Trace"]

_ACTIVATE = {
    Activation.RELU: F.relu,
    Activation.GELU: F.gelu,
    Activation.GELU_TANH: lambda x: F.gelu(x, approximate="tanh"),
    Activation.SILU: F.silu,
}


class Model:
    """A language model as circuit_econ runs it.

    Attributes:
        config: The function it computes.
        weights: Canonical weights, in the dtype and on the device of the computation.
    """

    def __init__(
        self, config: ModelConfig, weights: Weights, rounding: Rounding = Rounding.EXACT
    ) -> None:
        """Use :meth:`from_source`, :meth:`from_bridge` or :meth:`initialise`."""
        self.config, self.weights = config, weights
        self.products = Products(rounding, [t for _, t in weights.named() if t.ndim == 2])
        self._rotations: dict[int, tuple[Tensor, Tensor]] = {}
        self._masks: dict[tuple[int, int], Tensor] = {}

    # ── where models come from ────────────────────────────────────────────────────────────────

    @classmethod
    def from_source(
        cls,
        source: Source,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        rounding: Rounding = Rounding.EXACT,
    ) -> Model:
        """The model of a checkpoint.

        Args:
            source: Where it comes from.
            dtype: Of weights, stream and losses.
            device: Of the computation.
            rounding: Of the numbers that enter matrix products.

        Raises:
            CheckpointError: If the architecture or a field is not supported, or a tensor is
                missing, misshapen, or holds NaN, infinity or what ``dtype`` does not hold.
        """
        config = read_config(source)
        weights = read_weights(source, config, dtype)
        place = torch.device(device)

        def settle(tensor: Tensor) -> Tensor:
            # Always a copy of our own: the source may be a memory-mapped file.
            form = torch.contiguous_format
            return send(tensor, place).to(dtype, copy=True, memory_format=form)

        weights.apply(settle)
        # What the file holds decides whether they are one, not only what its configuration says.
        tied = weights.unembed is weights.embed
        return cls(replace(config, tied=tied), weights, rounding)

    @classmethod
    def from_bridge(
        cls,
        bridge: Any,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        rounding: Rounding = Rounding.EXACT,
    ) -> Model:
        """The model inside a ``TransformerBridge``, its weights as trained.

        Raises:
            CheckpointError: As :meth:`from_source`.
        """
        from circuit_econ.model.bridge import source_of

        return cls.from_source(source_of(bridge), dtype, device, rounding)

    @classmethod
    def initialise(
        cls,
        config: dict[str, Any],
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> Model:
        """A TransformerLens-native model with the random weights its own initialisation draws.

        Its unembedding has a bias that can be trained, which TransformerLens' own model has not.

        Args:
            config: Fields of ``TransformerBridgeConfig``.
            seed: Seed of the initialisation.
            dtype: Of the computation.
            device: Of the computation.
        """
        from circuit_econ.model.bridge import boot, source_of

        source = Source(Format.TRANSFORMER_LENS, {**config, "seed": seed}, {}, "a new model")
        tensors = source_of(boot(source)).tensors
        tensors["unembed.b_U"] = tensors["unembed.W_U"].new_zeros(len(tensors["unembed.W_U"].T))
        return cls.from_source(
            Source(Format.TRANSFORMER_LENS, config, tensors, "a new model"), dtype, device
        )

    def to_transformer_lens(self) -> dict[str, Tensor]:
        """The weights under TransformerLens' names, copied to the CPU."""
        return native.write(self.weights, self.config)

    def parameters(self) -> dict[str, Tensor]:
        """Canonical tensors by name, tied ones once: the leaves to train."""
        return dict(self.weights.named())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.embed.device

    @property
    def dtype(self) -> torch.dtype:
        """In what the weights are."""
        return self.weights.embed.dtype

    @property
    def last_place(self) -> int:
        """The place of the stream that enters the final norm."""
        return 2 * self.config.n_layers

    def place_after_heads(self, layer: int) -> int:
        """The place at which what a layer's heads wrote is in the stream."""
        between = not self.config.parallel and self.config.d_mlp is not None
        return 2 * layer + 1 if between else 2 * layer + 2

    # ── the pass ──────────────────────────────────────────────────────────────────────────────

    def embed(self, tokens: Int[Tensor, "S T"]) -> Float[Tensor, "S T D"]:
        """The stream at place 0.

        Raises:
            CheckpointError: If a sequence is longer than the context or a token not in the
                vocabulary.
        """
        self.check_tokens(tokens)
        stream = F.embedding(tokens, self.weights.embed)
        if self.weights.pos is not None:
            stream = stream + self.weights.pos[: tokens.shape[1]]
        return stream

    def check_tokens(self, tokens: Int[Tensor, "S T"]) -> None:
        """Raise if tokens do not fit the model: length against context, ids against vocabulary."""
        length, c = tokens.shape[1], self.config
        if length > c.n_ctx:
            raise CheckpointError(
                f"sequences of {length} tokens are longer than the model's context of {c.n_ctx}; "
                "choose a shorter evaluation.length"
            )
        if tokens.device.type == "cpu" and tokens.numel():
            # On a GPU this would stop the host in every chunk; a sweep checks its set once before.
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= c.d_vocab:
                raise CheckpointError(
                    f"token id {high if high >= c.d_vocab else low} is outside the model's "
                    f"vocabulary of {c.d_vocab}; the evaluation set was made with another tokenizer"
                )

    def run(
        self,
        stream: Float[Tensor, "B T D"],
        place: int = 0,
        edits: Sequence[Edit] = (),
        trace: Trace | None = None,
        until: int | None = None,
    ) -> Float[Tensor, "B T D"]:
        """From the stream at a place to the stream at a later one, the final norm's by default.

        Args:
            stream: The residual stream at ``place``; left unchanged.
            place: Where to start; nothing before it is computed.
            edits: Contributions to replace on the way. An edit before ``place`` has no effect.
            trace: Filled on the way if given.
            until: Where to stop; :attr:`last_place` by default.

        Returns:
            The stream at ``until``.
        """
        end = self.last_place if until is None else until
        if trace is not None:
            trace.streams[place] = stream
        for layer in range(place // 2, (end + 1) // 2):
            here = [e for e in edits if e.layer == layer]
            heads = None
            if place <= 2 * layer:
                heads = edit_heads(self.attend(layer, stream), here)
                if trace is not None:
                    trace.heads[layer] = heads
                if end == 2 * layer + 1:
                    return stream + self.write_heads(layer, heads)
            stream = self._finish_block(layer, stream, heads, here, trace)
            if trace is not None:
                trace.streams[2 * layer + 2] = stream
        return stream

    def _finish_block(
        self,
        layer: int,
        stream: Tensor,
        heads: Tensor | None,
        edits: Sequence[Edit],
        trace: Trace | None,
    ) -> Tensor:
        entering = stream
        if heads is not None:
            stream = stream + self.write_heads(layer, heads)
        if self.config.d_mlp is None:
            return stream
        if trace is not None and not self.config.parallel:
            trace.streams[2 * layer + 1] = stream
        written = self.mlp(layer, entering if self.config.parallel else stream)
        written = edit_mlp(written, edits)
        if trace is not None:
            trace.mlps[layer] = written
        return stream + written

    def ports(self, layer: int, stream: Float[Tensor, "B T D"]) -> Ports:
        """What a layer's heads read from the stream that enters the layer."""
        c, w = self.config, self.weights.layers[layer]
        normed = self._norm(c.norm, stream, w.ln1, w.ln1_bias)
        qkv = self.products.linear(normed, w.qkv, w.qkv_bias)
        if c.clip_qkv is not None:
            qkv = qkv.clamp(-c.clip_qkv, c.clip_qkv)
        heads = qkv.unflatten(-1, (-1, c.d_head))
        qk, v = heads.split([c.n_heads + c.n_kv_heads, c.n_kv_heads], 2)
        if w.q_norm is not None and w.k_norm is not None:
            q, k = qk.split([c.n_heads, c.n_kv_heads], 2)
            q = F.rms_norm(q, (c.d_head,), w.q_norm, c.eps)
            k = F.rms_norm(k, (c.d_head,), w.k_norm, c.eps)
            qk = torch.cat((q, k), 2)
        # Queries and keys turn together: they lie side by side.
        q, k = self.turn(qk).split([c.n_heads, c.n_kv_heads], 2)
        return Ports(normed, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))

    def attend(self, layer: int, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H K"]:
        """The heads' outputs before the output matrix, from the stream that enters the layer."""
        p = self.ports(layer, stream)
        return self.mix(layer, p.q, p.k, p.v)

    def turn(self, heads: Float[Tensor, "B T R K"]) -> Float[Tensor, "B T R K"]:
        """Queries or keys rotated to their positions: in place, unless gradients are kept."""
        if self.config.rotary is None:
            return heads
        return rotary.rotate(heads, *self._rotation(heads.shape[1]), self.config.rotary)

    def mix(
        self,
        layer: int,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
    ) -> Float[Tensor, "B T H K"]:
        """The heads' outputs before the output matrix, from queries, keys and values."""
        mask = self._mask(layer, q.shape[2])
        z = self.products.attend(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=self.config.causal and mask is None,
            scale=self.config.attention_scales[layer],
            enable_gqa=k.shape[1] < q.shape[1],
        )
        return z.transpose(1, 2)

    def pattern(self, layer: int, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T T"]:
        """Attention weights of a layer's heads, ``[.., query, key]``; slow, for looking."""
        p, length = self.ports(layer, stream), stream.shape[1]
        keys = p.k.repeat_interleave(self.config.group, dim=1)
        scores = p.q @ keys.transpose(-1, -2) * self.config.attention_scales[layer]
        mask = self._mask(layer, length)
        if mask is None and self.config.causal:
            mask = torch.ones(length, length, dtype=torch.bool, device=stream.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1)

    def write_heads(self, layer: int, heads: Float[Tensor, "B T H K"]) -> Float[Tensor, "B T D"]:
        """What the attention of a layer adds to the stream: all heads, and the output bias."""
        w = self.weights.layers[layer]
        return self.products.linear(heads.flatten(-2), w.out, w.out_bias)

    def write_head(
        self, layer: int, head: int, output: Float[Tensor, "*batch K"]
    ) -> Float[Tensor, "*batch D"]:
        """What one head adds to the stream; its layer's bias is not part of it."""
        k = self.config.d_head
        return F.linear(output, self.weights.layers[layer].out[:, head * k : (head + 1) * k])

    def mlp(self, layer: int, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """What an MLP adds to the stream (output bias included), from the stream it reads."""
        w = self.weights.layers[layer]
        assert w.mlp_out is not None
        return self.products.linear(self.neurons(layer, stream), w.mlp_out, w.mlp_out_bias)

    def neurons(self, layer: int, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "B T M"]:
        """Activations that multiply the rows an MLP writes, from the stream it reads."""
        c, w = self.config, self.weights.layers[layer]
        assert w.mlp_in is not None
        normed = self._norm(c.norm, stream, w.ln2, w.ln2_bias)
        hidden = self.products.linear(normed, w.mlp_in, w.mlp_in_bias)
        if w.mlp_gate is None:
            return _ACTIVATE[c.activation](hidden)
        gate = self.products.linear(normed, w.mlp_gate, w.mlp_gate_bias)
        return _ACTIVATE[c.activation](gate) * hidden

    def logits(self, stream: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch V"]:
        """Logits from the stream that enters the final norm."""
        return self._unembed(self._final(stream))

    def _final(self, stream: Tensor) -> Tensor:
        w = self.weights
        return self._norm(self.config.final_norm, stream, w.ln_final, w.ln_final_bias)

    def _unembed(self, normed: Tensor) -> Tensor:
        return self.products.linear(normed, self.weights.unembed, self.weights.unembed_bias)

    # ── what it costs ─────────────────────────────────────────────────────────────────────────

    def sequence_losses(
        self, stream: Float[Tensor, "B T D"], targets: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """Negative log-likelihood of each sequence, summed over its scored positions, in nats.

        Only scored positions are unembedded, and few logits are held at once, so memory does not
        grow with batch × vocabulary. Sums are taken in float64.
        """
        scored = targets >= 0
        losses = self.token_losses(stream[scored], targets[scored])
        total = torch.zeros(len(stream), dtype=torch.float64, device=stream.device)
        return total.index_add(0, scored.nonzero()[:, 0], losses.double())

    def token_losses(
        self, stream: Float[Tensor, "N D"], targets: Int[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        """Negative log-likelihood at each of some scored positions, in nats."""
        w = self.weights
        exact = self.products.rounding is Rounding.EXACT
        logits = None if exact else self._unembed
        return negative_log_likelihoods(
            self._final(stream), targets, w.unembed, w.unembed_bias, logits
        )

    def loss(self, tokens: Int[Tensor, "S T"], targets: Int[Tensor, "S T"]) -> Tensor:
        """Mean nats per scored position, a differentiable scalar; for training."""
        stream = self.run(self.embed(tokens))
        scored = targets >= 0
        return F.cross_entropy(self.logits(stream[scored]), targets[scored])

    def trace(self, tokens: Int[Tensor, "S T"]) -> Trace:
        """A clean pass that keeps the stream at every place and every component's output."""
        kept = Trace()
        self.run(self.embed(tokens), trace=kept)
        return kept

    def contributions(
        self, tokens: Int[Tensor, "S T"]
    ) -> Iterator[tuple[str, Float[Tensor, "S T D"]]]:
        """Everything that is added to the stream, in order; it sums to the final stream.

        Heads write what the pass makes them write, in the numbers that enter its products.
        Yields ``embed``, ``pos``, then per layer the heads, ``a{layer}.b_O`` and the MLP.
        """
        w, trace = self.weights, self.trace(tokens)
        yield "embed", F.embedding(tokens, w.embed)
        if w.pos is not None:
            yield "pos", w.pos[: tokens.shape[1]].expand(len(tokens), -1, -1)
        for layer, z in trace.heads.items():
            for head in range(self.config.n_heads):
                own = slice(head * self.config.d_head, (head + 1) * self.config.d_head)
                written = self.products.part(z[:, :, head], w.layers[layer].out, own)
                yield head_name(layer, head), written
            bias = w.layers[layer].out_bias
            if bias is not None:
                yield output_bias_name(layer), bias.expand(*tokens.shape, -1)
            if trace.mlps:
                yield mlp_name(layer), trace.mlps[layer]

    # ── small parts ───────────────────────────────────────────────────────────────────────────

    def _norm(self, kind: Norm, x: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        shape = (self.config.d_model,)
        if kind is Norm.LAYER:
            return F.layer_norm(x, shape, gain, bias, self.config.eps)
        if kind is Norm.RMS:
            return F.rms_norm(x, shape, gain, self.config.eps)
        return x

    def _rotation(self, length: int) -> tuple[Tensor, Tensor]:
        assert self.config.rotary is not None
        if length not in self._rotations:
            self._rotations[length] = rotary.table(
                self.config.rotary, length, self.dtype, self.device
            )
        return self._rotations[length]

    def _mask(self, layer: int, length: int) -> Tensor | None:
        """Which keys each query sees, where the plain causal triangle does not say it."""
        window = self.config.windows[layer]
        if window is None or window >= length:
            return None
        if (length, window) not in self._masks:
            ones = torch.ones(length, length, dtype=torch.bool, device=self.device)
            # A window of n sees the n last positions, the query's own included.
            self._masks[length, window] = ones.tril() & ones.triu(1 - window)
        return self._masks[length, window]
