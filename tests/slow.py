"""The oracle of flows and edges: plain autograd, a copy of the stream for each reader."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from circuit_econ.measures.income_parts import Port
from circuit_econ.model import Model
from circuit_econ.model.config import Activation, Norm
from circuit_econ.model.rotary import table

ACTIVATE = {
    Activation.RELU: torch.relu,
    Activation.GELU: lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    Activation.GELU_TANH: lambda x: F.gelu(x, approximate="tanh"),
    Activation.SILU: lambda x: x * torch.sigmoid(x),
}


@dataclass
class Slow:
    """A dialled model in plain autograd: explicit softmax, one copy of the stream per reader.

    ``bases`` holds each component's baseline as it is written to the stream ``[T, D]``; ``nudges``
    is added to single readers' copies; ``z`` multiplies the gradient at components' inputs.
    """

    model: Model
    bases: dict[str, Tensor]
    dial: float
    z: float = 1.0
    nudges: dict[Port, Tensor] = field(default_factory=dict)

    def run(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Nats per sequence; leaves probes, dials and writes behind."""
        c, w = self.model.config, self.model.weights
        self.probes: dict[Port, tuple[Tensor, Tensor]] = {}
        self.seen: dict[Port, tuple[Tensor, Tensor | None, list[str]]] = {}
        self.dials: dict[str, Tensor] = {}
        self.changes: dict[str, Tensor] = {}
        self.writes: dict[str, Tensor] = {}
        x = w.embed[tokens]
        if w.pos is not None:
            x = x + w.pos[: tokens.shape[1]]
        for layer in range(c.n_layers):
            lw, before = w.layers[layer], list(self.changes)
            heads = self._heads(layer, x, before)
            bias = 0 if lw.out_bias is None else lw.out_bias
            between = x + sum(heads.values()) + bias
            if c.d_mlp is None:
                x = between
                continue
            port, entering = Port(f"m{layer}", "in"), x if c.parallel else between
            readable = before if c.parallel else list(self.changes)
            h = self._read(port, entering, c.norm, lw.ln2, lw.ln2_bias, readable)
            hidden = F.linear(h, lw.mlp_in, lw.mlp_in_bias)  # type: ignore[arg-type]
            if lw.mlp_gate is None:
                hidden = ACTIVATE[c.activation](hidden)
            else:
                hidden = hidden * ACTIVATE[c.activation](F.linear(h, lw.mlp_gate, lw.mlp_gate_bias))
            x = between + self._write(port.buyer, F.linear(hidden, lw.mlp_out, lw.mlp_out_bias))  # type: ignore[arg-type]
        port = Port("logits", "in")
        h = self._read(port, x, c.final_norm, w.ln_final, w.ln_final_bias, list(self.changes))
        logits = F.linear(h, w.unembed, w.unembed_bias).transpose(1, 2)
        return F.cross_entropy(logits, targets, reduction="none").sum(1)

    def _read(
        self,
        port: Port,
        x: Tensor,
        norm: Norm,
        gain: Tensor | None,
        bias: Tensor | None,
        before: list[str],
    ) -> Tensor:
        z = 1.0 if port.buyer == "logits" else self.z
        x = z * x + (1 - z) * x.detach()
        whole, held = (torch.zeros_like(x, requires_grad=True) for _ in range(2))
        self.probes[port] = whole, held
        x = x + whole + self.nudges.get(port, 0)
        if norm is Norm.NONE:
            self.seen[port] = x.detach(), None, before
            return x + held
        if norm is Norm.LAYER:
            x = x - x.mean(-1, keepdim=True)
            held = held - held.mean(-1, keepdim=True)
        scale = (x.pow(2).mean(-1, keepdim=True) + self.model.config.eps).sqrt()
        self.seen[port] = x.detach(), scale.detach(), before
        out = (x + held) / scale
        out = out if gain is None else out * gain
        return out if bias is None else out + bias

    def _heads(self, layer: int, x: Tensor, before: list[str]) -> dict[str, Tensor]:
        c, w = self.model.config, self.model.weights.layers[layer]
        rows, biases = w.qkv.view(-1, c.d_head, c.d_model), w.qkv_bias
        found = {}
        for head in range(c.n_heads):
            name, key = f"a{layer}.h{head}", head // c.group

            def project(port: str, row: int, name: str = name) -> Tensor:
                h = self._read(Port(name, port), x, c.norm, w.ln1, w.ln1_bias, before)
                k = c.d_head
                bias = None if biases is None else biases[row * k : (row + 1) * k]
                out = F.linear(h, rows[row], bias)
                return out if c.clip_qkv is None else out.clamp(-c.clip_qkv, c.clip_qkv)

            q, k = project("q", head), project("k", c.n_heads + key)
            v = project("v", c.n_heads + c.n_kv_heads + key)
            if w.q_norm is not None and w.k_norm is not None:
                others = project("q_scale", head), project("k_scale", c.n_heads + key)
                scales = [(o.pow(2).mean(-1, keepdim=True) + c.eps).sqrt() for o in others]
                q, k = q / scales[0] * w.q_norm, k / scales[1] * w.k_norm
            scores = self._turn(q) @ self._turn(k).mT * c.attention_scales[layer]
            queries = torch.arange(x.shape[1])[:, None]
            visible = queries >= queries.T if c.causal else torch.ones_like(queries >= queries.T)
            window = c.windows[layer]
            if window is not None:
                visible = visible & (queries - queries.T < window)
            pattern = scores.masked_fill(~visible, -torch.inf).softmax(-1)
            out = w.out[:, head * c.d_head : (head + 1) * c.d_head]
            found[name] = (pattern @ v) @ out.T
        return {name: self._write(name, written) for name, written in found.items()}

    def _turn(self, x: Tensor) -> Tensor:
        r = self.model.config.rotary
        if r is None:
            return x
        cos, sin = table(r, x.shape[1], x.dtype, x.device)
        first = torch.arange(0, r.dim, 2) if r.adjacent else torch.arange(r.dim // 2)
        second = first + (1 if r.adjacent else r.dim // 2)
        out = list(x.unbind(-1))
        for pair, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            out[a] = x[..., a] * cos[:, pair] - x[..., b] * sin[:, pair]
            out[b] = x[..., b] * cos[:, pair] + x[..., a] * sin[:, pair]
        return torch.stack(out, -1)

    def _write(self, name: str, computed: Tensor) -> Tensor:
        change = computed - self.bases[name]
        dial = torch.full((len(computed), 1, 1), self.dial, dtype=torch.float64)
        self.dials[name] = dial.requires_grad_()
        written = self.bases[name] + self.dials[name] * change
        self.changes[name], self.writes[name] = change.detach(), written.detach()
        return written
