"""Code planted where a file could have it run; it leaves a mark if it does."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["Spy", "hooks", "module"]


class Spy:
    """Pickled, it asks whoever unpickles it to run something."""

    def __init__(self, mark: Path, rng: Random) -> None:
        self.mark, self.way = str(mark), rng.randrange(4)

    def __reduce__(self) -> tuple[Any, ...]:
        ways: tuple[tuple[Any, ...], ...] = (
            (os.system, (f"touch {self.mark}",)),
            (builtins.exec, (f"open({self.mark!r}, 'w').close()",)),
            (builtins.open, (self.mark, "w")),
            (os.mkdir, (self.mark,)),
        )
        return ways[self.way]


def module(path: Path, mark: Path) -> None:
    """A module that leaves its mark when it is imported, and has whatever is asked of it."""
    path.write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "def __getattr__(name):\n    return type(name, (), {})\n"
    )


def hooks(folder: Path, mark: Path, rng: Random) -> dict[str, Any]:
    """Fields of a configuration that name code, with the code beside it where there is to be one.

    Returns:
        Fields to be set.
    """
    name = rng.choice(("modeling_spy", "configuration_spy", "tokenization_spy", "spy"))
    module(folder / f"{name}.py", mark)
    autos = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
    code = f"{name}.Spy"
    return rng.choice(
        (
            {"auto_map": {auto: code for auto in autos}},
            {"auto_map": {"AutoTokenizer": [code, code]}, "tokenizer_class": "Spy"},
            {"auto_map": {auto: code for auto in autos}, "trust_remote_code": True},
            {"attn_implementation": "spy/kernel"},
            {"_attn_implementation": {"": f"{folder}/spy"}},
            {"_attn_implementation_internal": "spy/kernel@main:f"},
            {"experts_implementation": "spy/kernel"},
            {"quantization_config": {"quant_method": "awq", "modules": code}},
            {"quantization_config": {"quant_method": code}},
            {"_target_": "os.system", "_args_": [f"touch {mark}"]},
            {"custom_generate": str(folder), "use_kernels": True},
            {"tokenizer_class": code},
            {"model_type": code, "architectures": [code]},
            {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
            {"vocab_file": f"{name}.py", "tokenizer_file": f"{name}.py"},
            {"__class__": code, "py/object": code, "py/reduce": [code]},
        )
    )
