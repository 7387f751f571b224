"""The training loop: deterministic for a seed, resumable after a kill, cached by its digest."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation, TrainingData
from circuit_econ.model import Model
from circuit_econ.places import installed
from circuit_econ.training.config import Optimiser, Schedule, TrainingConfig
from circuit_econ.training.folder import RunFolder

__all__ = ["learning_rate", "train"]

log = logging.getLogger(__name__)

_RESUME_EVERY: Final = 100
"""Steps between two resume files where no checkpoint comes first."""


def train(
    config: TrainingConfig,
    data: TrainingData | Evaluation,
    out: str | Path,
    *,
    device: str | torch.device | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Train a model and write its trajectory; at once if the folder already holds this run.

    The folder gets ``config.json``, ``step_<step>.safetensors`` under TransformerLens' names,
    ``training_loss.csv`` and ``training.json`` (settings, data, tokens per step). A run that was
    killed goes on from its last resume file; on the CPU of one machine, with the same number of
    threads, its checkpoints are then those of an uninterrupted run, bit for bit.

    Args:
        config: The model, the optimiser and the checkpoints.
        data: Batches; or an evaluation set, on whose own sequences the model is then trained.
        out: The folder.
        device: Where to train; by default CUDA if there, else the CPU. The same run may finish on
            another device than it began on.
        progress: Called after each step with the steps done, all steps, and the loss.

    Returns:
        The folder.

    Raises:
        ConfigurationError: If the folder holds something else or cannot be written, the data do not
            fit the configuration, or the loss is no longer finite.
    """
    if isinstance(data, Evaluation):
        data = TrainingData.from_evaluation(data, config.batch, config.seed)
    if data.batch_size != config.batch:
        raise ConfigurationError(
            f"the data come in batches of {data.batch_size} and the configuration says"
            f" batch={config.batch}; make them equal"
        )
    folder = RunFolder(Path(out), _manifest(config, data), config.saved_steps)
    if folder.is_finished():
        return folder.path
    with folder.lock():
        # Another process may have finished the run while this one waited.
        if not folder.is_finished():
            _Run(config, data, folder, device).go(progress)
    return folder.path


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The step size of the update that leads from ``step`` to ``step + 1``."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    factors = {
        Schedule.constant: 1.0,
        Schedule.linear: 1 - done,
        Schedule.cosine: (1 + math.cos(math.pi * done)) / 2,
    }
    return config.learning_rate * factors[Schedule(config.schedule)]


def _manifest(config: TrainingConfig, data: TrainingData) -> dict[str, Any]:
    return {
        "digest": config.digest(data),
        "identity": config.identity(data),
        "data": data.description | {"batch_size": data.batch_size, "stream_seed": data.seed},
        "vocabulary": data.vocabulary,
        "length": data.length,
        "tokens_per_step": data.batch_size * data.length,
        "saved_steps": config.saved_steps,
        "weight_decay": {
            "lambda": config.weight_decay,
            "form": "decoupled: W -> W (1 - learning_rate * lambda) at each step",
            "tensors": "every W_* (embeddings and unembedding included), no gain, no bias",
        },
        "torch": installed("torch"),
    }


class _Run:
    """A run in progress: the weights, the optimiser's state and the losses so far."""

    def __init__(
        self,
        config: TrainingConfig,
        data: TrainingData,
        folder: RunFolder,
        device: str | torch.device | None,
    ) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        fields = config.model_fields(data)
        self.model = Model.initialise(fields, seed=config.seed, device=self.device)
        self.parameters = {k: p.requires_grad_(True) for k, p in self.model.parameters().items()}
        self.optimiser = _optimiser(config, list(self.parameters.values()))
        self.losses: list[float] = []
        saved = folder.read_resume()
        if saved is None:
            folder.start(fields)
        else:
            self._restore(saved)

    @property
    def step(self) -> int:
        """Updates done."""
        return len(self.losses)

    def go(self, progress: Callable[[int, int, float], None] | None) -> None:
        """From where the run stands to its end."""
        saved_steps = self.config.saved_steps
        last = saved_steps[-1]
        begun_at = self.step
        if begun_at:
            log.info("training in %s goes on from step %d", self.folder.path, begun_at)
        while True:
            if self.step in saved_steps:
                self._check_weights()
                self.folder.write_checkpoint(self.step, self.model.to_transformer_lens())
            if self.step == last:
                break
            due = self.step in saved_steps or self.step % _RESUME_EVERY == 0
            if due and self.step > begun_at:
                self._save()
            self._update()
            if progress is not None:
                progress(self.step, last, self.losses[-1])
        self.folder.write_losses(self.losses)
        self.folder.finish()

    def _update(self) -> None:
        tokens, targets = (part.to(self.device) for part in self.data.batch(self.step))
        loss = self.model.loss(tokens, targets)
        if not bool(torch.isfinite(loss)):
            raise self._diverged(f"the loss is {loss.item()}")
        self.optimiser.zero_grad()
        loss.backward()
        if self.config.gradient_clip is not None:
            clip_grad_norm_(self.parameters.values(), self.config.gradient_clip)
        rate = learning_rate(self.config, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self._decay(rate)
        self.optimiser.step()
        self.losses.append(loss.item())

    @torch.no_grad()
    def _decay(self, rate: float) -> None:
        """Charge the rent: for matrices alone, and the same under either optimiser."""
        for parameter in self.parameters.values():
            if parameter.ndim > 1:
                parameter.mul_(1 - rate * self.config.weight_decay)

    def _save(self) -> None:
        self.folder.write_losses(self.losses)
        self.folder.write_resume(
            {
                "parameters": {k: p.detach() for k, p in self.parameters.items()},
                "optimiser": self.optimiser.state_dict(),
                "losses": torch.tensor(self.losses, dtype=torch.float64),
            }
        )

    @torch.no_grad()
    def _restore(self, saved: dict[str, Any]) -> None:
        with self.folder.resuming():
            for name, parameter in self.parameters.items():
                parameter.copy_(saved["parameters"][name])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.losses = saved["losses"].tolist()

    def _check_weights(self) -> None:
        for name, parameter in self.parameters.items():
            if not bool(torch.isfinite(parameter).all()):
                raise self._diverged(f"weights {name!r} are not finite")

    def _diverged(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"training diverged: {what} at step {self.step}; lower learning_rate or set"
            f" gradient_clip. Checkpoints before it are kept in {self.folder.path}"
        )


def _optimiser(config: TrainingConfig, parameters: list[Tensor]) -> torch.optim.Optimizer:
    # Weight decay is none of theirs: SGD's would go through the momentum and be no rent.
    if config.optimiser is Optimiser.sgd:
        return torch.optim.SGD(parameters, config.learning_rate, momentum=config.momentum)
    beta1, beta2 = config.betas
    return torch.optim.Adam(parameters, config.learning_rate, betas=(beta1, beta2))
