"""What in a configuration asks for code or quantisation that comes with a checkpoint: refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from circuit_econ.errors import CheckpointError
from circuit_econ.model.fields import shown

__all__ = ["refuse_foreign"]

_IMPLEMENTATIONS: Final = frozenset({"eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm"})
"""Ways to compute that are part of the libraries. Whatever else is named (a repository of kernels,
a package) would be fetched or imported. None of them is used: models are built to run eagerly."""

_NAMES_AN_IMPLEMENTATION: Final = frozenset(
    {
        "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
        "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
        "attn_implementation_internal", "experts_implementation_internal",
    }
)  # fmt: skip

_FOREIGN: Final = frozenset(
    {
        "auto_map", "trust_remote_code", "custom_pipelines", "quantization_config",
        "compression_config", "load_in_4bit", "load_in_8bit", "use_kernels", "kernel_config",
        "allow_all_kernels", "fusion_config", "transformers_weights", "custom_generate",
    }
)  # fmt: skip
"""Fields that name classes, kernels, weights or quantisation outside the plain model."""


def refuse_foreign(config: Mapping[str, Any], origin: str) -> None:
    """Raise if a configuration, however deep, names code, kernels or quantisation to load.

    Nothing of the kind is ever run here. A checkpoint that asks for it is refused all the same:
    what its author ran is not what would be measured.

    Raises:
        CheckpointError: Naming the field and its value.
    """
    for path, name, value in _walk(config):
        if name in _NAMES_AN_IMPLEMENTATION:
            named = [v for v in _values(value) if v is not None]
            if all(isinstance(v, str) and _plain(v) for v in named):
                continue
            raise CheckpointError(
                f"{origin}: {path} = {shown(value)} in config.json is not one of "
                f"{', '.join(sorted(_IMPLEMENTATIONS))}: code that a checkpoint names is never "
                "fetched or run; remove the field"
            )
        if name in _FOREIGN and value:
            raise CheckpointError(
                f"{origin}: {path} is set ({shown(value)}): code or quantisation that comes with a "
                "checkpoint is never run; convert the model to plain weights first"
            )


def _plain(name: str) -> bool:
    # Flash attention is named by what published models were trained with, and never loaded here.
    return name.removeprefix("paged|") in _IMPLEMENTATIONS | {
        f"flash_attention_{version}" for version in (2, 3, 4)
    }


def _walk(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Every field at any depth: its path, its name, its value; without recursion."""
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield f"{path}{key}", str(key), inner
                if isinstance(inner, (Mapping, list, tuple)):
                    waiting.append((f"{path}{key}.", inner))
        elif isinstance(value, (list, tuple)):
            waiting.extend((path, v) for v in value if isinstance(v, (Mapping, list, tuple)))


def _values(value: Any) -> list[Any]:
    """A value, or those of a table with one for each part of a model."""
    found: list[Any] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting.extend(one.values())
        else:
            found.append(one)
    return found
