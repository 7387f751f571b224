"""What stands in an ablated component's place: baselines, and where in the stream that bites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from circuit_econ.errors import unknown
from circuit_econ.model.config import ModelConfig
from circuit_econ.model.draws import drawing
from circuit_econ.model.forward import Edit, Model, Trace
from circuit_econ.tables import Baseline, Kind, component_key, head_name, mlp_name

__all__ = ["Baselines", "Component", "components", "draw_donors", "parse_component"]


@dataclass(frozen=True, slots=True)
class Component:
    """A unit that writes into the stream.

    Attributes:
        name: As in the tables.
        kind: Embedding, positions, head or MLP.
        layer: Its layer; None for embeddings.
        head: Its head; None for all but heads.
    """

    name: str
    kind: Kind
    layer: int | None = None
    head: int | None = None

    def place(self, model: Model) -> int:
        """The first place of the stream that holds what it writes."""
        if self.layer is None:
            return 0
        if self.kind is Kind.HEAD:
            return model.place_after_heads(self.layer)
        return 2 * self.layer + 2

    def output(self, model: Model, trace: Trace, tokens: Int[Tensor, "S T"]) -> Tensor:
        """What it computed in a clean pass.

        Returns:
            For a head ``[S, T, d_head]``, before the output matrix (which is linear, so that means
            and differences may be taken on either side of it); else ``[S, T, d_model]``.
        """
        if self.kind is Kind.HEAD:
            assert self.layer is not None
            return trace.heads[self.layer][:, :, self.head]
        if self.kind is Kind.MLP:
            assert self.layer is not None
            return trace.mlps[self.layer]
        if self.kind is Kind.EMBED:
            return F.embedding(tokens, model.weights.embed)
        assert model.weights.pos is not None
        return model.weights.pos[: tokens.shape[1]].expand(len(tokens), -1, -1)

    def write(self, model: Model, output: Tensor) -> Tensor:
        """What an output adds to the stream, ``[..., d_model]``."""
        if self.kind is Kind.HEAD:
            assert self.layer is not None and self.head is not None
            return model.write_head(self.layer, self.head, output)
        return output

    def edit(self, rows: Tensor | slice, replacement: Tensor) -> Edit:
        """The edit that replaces it in a pass that has not reached it yet."""
        assert self.layer is not None, "embeddings are never downstream of anything"
        return Edit(self.layer, self.head, rows, replacement)


def components(config: ModelConfig, *, embeddings: bool = True) -> list[Component]:
    """All components of a model in the order of the forward pass."""
    found = []
    if embeddings:
        found.append(Component("embed", Kind.EMBED))
        if config.rotary is None:
            found.append(Component("pos", Kind.POS))
    for layer in range(config.n_layers):
        found += [
            Component(head_name(layer, h), Kind.HEAD, layer, h) for h in range(config.n_heads)
        ]
        if config.d_mlp is not None:
            found.append(Component(mlp_name(layer), Kind.MLP, layer))
    return found


def parse_component(name: str, config: ModelConfig) -> Component:
    """The component of a name.

    Raises:
        ConfigurationError: If the model has none of that name; what it has is listed.
    """
    known = {c.name: c for c in components(config)}
    if name not in known:
        shown = sorted(known, key=component_key)
        if len(shown) > 12:
            shown = [*shown[:8], "…", *shown[-3:]]
        raise unknown("component", name, shown)
    return known[name]


def draw_donors(sequences: int, donors: int, *, same_set: bool, seed: int) -> Int[Tensor, " S"]:
    """For each sequence, the reference sequence that the ``resample`` baseline takes.

    Drawn once per run, so that every checkpoint sees the same donors.

    Args:
        sequences: How many evaluation sequences there are.
        donors: How many reference sequences there are.
        same_set: Whether the reference is the evaluation set itself; then nobody is his own donor
            (unless there is only one sequence).
        seed: Seed of the draw.
    """
    generator = drawing(seed)
    if not same_set:
        return torch.randint(donors, (sequences,), generator=generator)
    # Someone else, uniformly: shift by 1 … n − 1.
    shift = torch.randint(1, max(2, donors), (sequences,), generator=generator)
    return (torch.arange(sequences) + shift) % donors


class Baselines:
    """Replacements for every component, by baseline.

    ``mean`` is the mean over reference sequences and positions, position 0 apart; ``mean-position``
    a mean per position; ``zero`` nothing; ``resample`` the same component on another reference
    sequence, same position.

    Attributes:
        means: Per component, the reference mean at each position, ``[T, width]``.
    """

    def __init__(
        self,
        model: Model,
        reference: Int[Tensor, "R T"],
        wanted: Sequence[str],
        parts: Iterable[Component],
        *,
        panel: int,
    ) -> None:
        """Measure the reference.

        Args:
            model: The model.
            reference: Tokens of the reference sequences, on the model's device.
            wanted: Baselines that will be asked for; means are taken only if one needs them.
            parts: Components that will be asked for.
            panel: Sequences per pass.
        """
        self.model, self.reference = model, reference
        self.means: dict[str, Float[Tensor, "T width"]] = {}
        self._overall: dict[str, Float[Tensor, "T width"]] = {}
        if not {Baseline.MEAN, Baseline.MEAN_POSITION}.isdisjoint(wanted):
            self._measure(list(parts), panel)

    @torch.no_grad()
    def _measure(self, parts: list[Component], panel: int) -> None:
        model, sums = self.model, dict[str, Tensor]()

        def add(part: Component, trace: Trace, tokens: Tensor) -> None:
            # Sums over sequences in float64: a mean over many positions keeps its digits.
            total = part.output(model, trace, tokens).sum(0, dtype=torch.float64)
            sums[part.name] = sums[part.name] + total if part.name in sums else total

        for tokens in self.reference.split(panel):
            stream = model.embed(tokens)
            for part in parts:
                if part.layer is None:
                    add(part, Trace(), tokens)
            # A layer at a time, so that memory does not grow with depth.
            for layer in range(model.config.n_layers):
                trace = Trace()
                stream = model.run(stream, 2 * layer, trace=trace, until=2 * layer + 2)
                for part in parts:
                    if part.layer == layer:
                        add(part, trace, tokens)
        for name, total in sums.items():
            mean = total / len(self.reference)
            self.means[name] = mean.to(model.dtype)
            rest = mean[1:].mean(0, keepdim=True).expand(len(mean) - 1, -1)
            self._overall[name] = torch.cat([mean[:1], rest]).to(model.dtype)

    def replacement(
        self, part: Component, baseline: str, output: Tensor, donors: tuple[Trace, Tensor] | None
    ) -> Tensor:
        """What stands in a component's place.

        Args:
            part: The component.
            baseline: One of :class:`circuit_econ.tables.Baseline`.
            output: What the component computed, ``[S, T, width]``.
            donors: The clean pass and tokens of the sequences' donors; for ``resample``.

        Returns:
            ``[S, T, width]``, or broadcastable to it.
        """
        if baseline == Baseline.MEAN:
            return self._overall[part.name]
        if baseline == Baseline.MEAN_POSITION:
            return self.means[part.name]
        if baseline == Baseline.ZERO:
            return torch.zeros_like(output[:1])
        assert baseline == Baseline.RESAMPLE and donors is not None
        return part.output(self.model, *donors)
