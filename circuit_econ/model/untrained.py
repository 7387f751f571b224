"""Models that were never trained, with the weights that their own library draws for a new model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from circuit_econ.model.config_hugging_face import transformers_config
from circuit_econ.model.forward import Model
from circuit_econ.model.source import Format, Source

__all__ = ["Untrained", "untrained"]

_NO_SHAPE = ("seed", "device", "dtype", "torch_dtype", "_name_or_path", "transformers_version")
"""Fields that say nothing of what a new model is."""


@dataclass(frozen=True, slots=True)
class Untrained:
    """From a seed to a model of a shape that was never trained.

    Attributes:
        kind: Whose names the configuration uses.
        config: Fields of ``TransformerBridgeConfig``, or a Hugging Face ``config.json``.
        load: Makes a model of a source.
    """

    kind: Format
    config: dict[str, Any]
    load: Callable[[Source], Model]

    @property
    def digest(self) -> str:
        """Of what is drawn, the seed apart: models of one digest are draws of one distribution."""
        fields = {k: v for k, v in self.config.items() if k not in _NO_SHAPE}
        text = json.dumps([self.kind, fields], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def __call__(self, seed: int) -> Model:
        """The model of a seed."""
        return self.load(untrained(self.kind, self.config, seed))


def untrained(kind: Format, config: dict[str, Any], seed: int) -> Source:
    """A new model of a configuration; the process's own generator is left as it was."""
    origin = f"an untrained model (seed {seed})"
    with torch.random.fork_rng(devices=[]):
        if kind is Format.TRANSFORMER_LENS:
            from circuit_econ.model.bridge import boot, source_of

            fresh = source_of(boot(Source(kind, {**config, "seed": seed}, {}, origin)))
            return Source(kind, config, fresh.tensors, origin)
        from transformers import AutoModelForCausalLM

        chosen = transformers_config(Source(kind, config, {}, origin))
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(
            chosen, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
        )
        return Source(kind, config, dict(module.state_dict()), origin)
