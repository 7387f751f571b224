"""The models that are timed: published shapes with random weights and their real vocabularies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from circuit_econ.evaluation import Evaluation, make, training_data
from circuit_econ.model import Format, Source
from circuit_econ.training import TrainingConfig, train
from circuit_econ.trajectory import open_trajectory

__all__ = ["SHAPES", "Shape"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A model and what it is timed on.

    Attributes:
        name: As in the table.
        format: Whose names the configuration uses.
        config: The configuration.
        sequences: Sequences of an equal contest.
        length: Tokens of a sequence.
        every: Every so-manieth component is measured, spread evenly over the layers.
        pool: Sequences there are where a precision is asked for.
        rounds: How often the contestants take turns.
        trained: On what it is trained first, ``config`` being that of the training: kind and
            settings of an evaluation set. Random weights if None.
    """

    name: str
    format: Format
    config: dict[str, Any]
    sequences: int
    length: int = 128
    every: int = 1
    rounds: int = 5
    pool: int = 1024
    trained: tuple[str, dict[str, Any]] | None = None

    def source(self) -> Source:
        """The weights: trained ones, or random as the model's own library draws them."""
        if self.trained is not None:
            config = TrainingConfig(**self.config)
            with TemporaryDirectory() as folder:
                data = training_data(*self.trained, config.batch, config.seed)
                run = open_trajectory(train(config, data, Path(folder) / "run"))
                read = run.read(config.steps)
                tensors = {name: tensor.clone() for name, tensor in read.tensors.items()}
                return Source(read.format, read.config, tensors, self.name)
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM

        torch.manual_seed(0)
        given = {k: v for k, v in self.config.items() if k != "model_type"}
        kind = CONFIG_MAPPING[self.config["model_type"]]
        module = AutoModelForCausalLM.from_config(kind.from_dict(given))
        return Source(self.format, self.config, dict(module.state_dict()), "random")

    def evaluation(self, pool: int) -> Evaluation:
        """So many sequences."""
        if self.trained is not None:
            kind, settings = self.trained
            return make(kind, {**settings, "sequences": pool, "reference_sequences": 8})
        generator = torch.Generator().manual_seed(0)
        return Evaluation(
            torch.randint(self.config["vocab_size"], (pool, self.length), generator=generator)
        )


def pythia(layers: int, heads: int, width: int) -> dict[str, Any]:
    """The shape of a Pythia model."""
    return {
        "model_type": "gpt_neox",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "rotary_pct": 0.25,
        "max_position_embeddings": 2048,
        "vocab_size": 50304,
        "use_parallel_residual": True,
    }


_ATTENTION_ONLY = {
    "n_layers": 2, "n_heads": 4, "d_model": 64, "attn_only": True, "steps": 300, "batch": 64,
    "learning_rate": 0.003, "checkpoints": 2,
}  # fmt: skip
_SMALL = {"n_layers": 2, "n_heads": 4, "d_model": 64, "steps": 400, "batch": 32, "checkpoints": 2}
_LLAMA = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024,
    "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip
_INDUCTION = {"name": "induction"}
_HF, _TL = Format.HUGGING_FACE, Format.TRANSFORMER_LENS

SHAPES = (
    Shape(
        "attention-only, 2 layers", _TL, _ATTENTION_ONLY, 128, 48,
        pool=4096, trained=("task", _INDUCTION),
    ),
    Shape(
        "2 layers with MLPs", _TL, _SMALL, 128, 96,
        pool=1600, trained=("embedded", {"length": 96}),
    ),
    Shape("pythia-14m", _HF, pythia(6, 4, 128), 32),
    Shape("pythia-70m", _HF, pythia(6, 8, 512), 32, every=4, rounds=3),
    Shape("Llama, 8 layers, 52M", _HF, _LLAMA, 32, every=4, rounds=3),
    Shape("pythia-160m", _HF, pythia(12, 12, 768), 32, every=11, rounds=3),
    Shape("pythia-410m", _HF, pythia(24, 16, 1024), 16, every=45, rounds=2, pool=256),
)  # fmt: skip
