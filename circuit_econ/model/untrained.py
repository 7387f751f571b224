"""Models that were never trained, with the weights that their own library draws for a new model."""

from __future__ import annotations

from typing import Any

import torch

from circuit_econ.model.source import Format, Source

__all__ = ["untrained"]


def untrained(kind: Format, config: dict[str, Any], seed: int) -> Source:
    """A new model of a configuration.

    Args:
        kind: Whose names the configuration uses.
        config: Fields of ``TransformerBridgeConfig``, or a Hugging Face ``config.json``.
        seed: Seed of the draw; the process's own generator is left as it was.
    """
    origin = f"an untrained model (seed {seed})"
    with torch.random.fork_rng(devices=[]):
        if kind is Format.TRANSFORMER_LENS:
            from circuit_econ.model.bridge import boot, source_of

            fields = {**config, "seed": seed}
            fresh = source_of(boot(Source(kind, fields, {}, origin)))
            return Source(kind, config, fresh.tensors, origin)
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM

        torch.manual_seed(seed)
        given = {k: v for k, v in config.items() if k != "model_type"}
        module = AutoModelForCausalLM.from_config(
            CONFIG_MAPPING[config["model_type"]].from_dict(given), torch_dtype=torch.float32
        )
        return Source(kind, config, dict(module.state_dict()), origin)
