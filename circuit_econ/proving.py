"""When a checkpoint is compared with TransformerLens, before anything of it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from circuit_econ.errors import CheckpointError
from circuit_econ.evaluation import Evaluation
from circuit_econ.loading import numbers
from circuit_econ.model import Model, Rounding, Source, read_config
from circuit_econ.model.check import DisagreementError, Probe, check_against_bridge, check_identity

__all__ = ["FALL", "RISE", "Prover"]

RISE: Final = 0.1
"""Nats by which the probe's loss may rise from one checkpoint to the next without being a jump."""
FALL: Final = 1.0
"""Nats by which it may fall. Training lowers it, by much between early checkpoints."""


class Prover:
    """Knows what has been proven in a walk, and proves what has not.

    Our loss is compared with TransformerLens' own on the first checkpoint, on the last of the run,
    wherever configuration, names, shapes or numbers of the tensors, or the tie of embedding and
    unembedding differ from what was compared before, wherever the loss jumps (by more than
    :data:`RISE` up or :data:`FALL` down since the checkpoint before, on the one sequence that is
    compared), and everywhere once one comparison has failed. Identity 1 is checked everywhere.
    """

    def __init__(self, evaluation: Evaluation, last: int) -> None:
        """For a run whose last checkpoint is at step ``last``."""
        self.evaluation, self.last = evaluation, last
        self.probe = Probe.of(evaluation.tokens, evaluation.targets)
        self._proven: set[tuple[Any, ...]] = set()
        self._loss: float | None = None
        self._doubted = False

    def prove(self, source: Source, step: int, make: Callable[[], Model]) -> Model:
        """The model of a checkpoint, once it is shown to compute what the checkpoint does.

        What must be compared is compared before the model is made, so that no third set of weights
        is in memory; only a jump of the loss, or a tie that opens, is seen in the model itself.

        Args:
            source: The checkpoint.
            step: Its step.
            make: Makes the model, or hands over the one that is there.

        Raises:
            DisagreementError: If the two losses differ, or identity 1 fails.
            CheckpointError: If the loss is no number, or the model cannot be made.
        """
        try:
            return self._prove(source, step, make)
        except DisagreementError:
            # One that is not what we take it for: none of the others is believed unasked.
            self._doubted = True
            raise

    def _prove(self, source: Source, step: int, make: Callable[[], Model]) -> Model:
        kind = read_config(source), _shapes(source)
        due = self._doubted or step == self.last or kind not in self._proven
        if due:
            self._compare(source, None)
        model = make()
        loss = self.probe.loss(model)
        if not math.isfinite(loss):
            dtype = str(model.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{source.origin}: its loss is {loss} in {dtype}, although its weights are finite: "
                "activations overflow; nothing of it can be measured"
            )
        exact = model.config, kind[1]
        if not due and (exact not in self._proven or self._jumps(loss)):
            self._compare(source, model)
        self._proven |= {kind, exact}
        self._loss = loss
        check_identity(model, self.evaluation.tokens[:1])
        return model

    def _jumps(self, loss: float) -> bool:
        return self._loss is not None and not -FALL <= loss - self._loss <= RISE

    def _compare(self, source: Source, model: Model | None) -> None:
        # The function is compared, in exact products, whatever the walk rounds.
        with numbers(Rounding.EXACT):
            check_against_bridge(source, self.evaluation.tokens, self.evaluation.targets, model)


def _shapes(source: Source) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    return tuple(sorted((n, tuple(t.shape), str(t.dtype)) for n, t in source.tensors.items()))
