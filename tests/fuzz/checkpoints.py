"""Checkpoints: configurations, safetensors, pickles, names of steps."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import warnings
import zipfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import polars.selectors as cs
import torch
import zoo
from safetensors.torch import load_file, save_file
from torch import Tensor

import circuit_econ as ce
from circuit_econ.model import Format, inventory
from circuit_econ.trajectory import audit
from fuzz.mutating import VALUES, special, spoil_bytes, spoil_file, spoil_json
from fuzz.oracle import expected_loss, is_right
from fuzz.shop import Shop, SilentError, check_reason
from fuzz.spies import Spy, hooks

__all__ = ["configurations", "evaluation", "names", "pickles", "safetensors", "walk_and_judge"]

_FIELDS = (
    "head_dim", "layer_types", "is_causal", "per_layer_config", "sliding_window",
    "attention_bias", "mlp_bias", "partial_rotary_factor", "rope_theta", "rope_scaling",
    "rope_parameters", "attn_implementation", "_attn_implementation", "auto_map",
    "quantization_config", "to_dict", "num_labels", "id2label", "hidden_size", "n_embd",
    "num_hidden_layers", "text_config", "decoder", "use_sliding_window", "max_window_layers",
    "num_key_value_heads", "rotary_pct", "rotary_emb_base", "pad_token_id", "initializer_range",
    "tie_word_embeddings", "torch_dtype", "dtype", "use_cache", "output_attentions",
    "return_dict", "vocab_size", "window_size", "use_local_attn", "n_key_value_heads",
    "attention_dir", "gated_mlp", "final_rms", "rotary_dim", "rotary_base",
    "positional_embedding_type", "attn_scale", "attn_only", "d_mlp", "act_fn", "eps", "n_heads",
    "n_layers", "n_layer", "n_head", "d_vocab_out", "seed", "init_mode", "num_experts",
    "is_encoder_decoder", "architectures", "model_type", "attention_chunk_size", "name_or_path",
    "pruned_heads", "n_ctx", "attribute_map", "sub_configs", "__class__", "clip_qkv",
    "max_position_embeddings", "n_inner", "transformers_version", "chunk_size_feed_forward",
    "use_qk_norm", "normalization_type", "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
)  # fmt: skip

_MEASURES = ("value",) * 8 + ("capacity", "attention", "composition", "income")
_SETTINGS = {"value": ce.ValueSettings(placebo_draws=0)}


@cache
def evaluation(vocabulary: int = 13, length: int = 8, sequences: int = 2) -> ce.Evaluation:
    """A few random tokens."""
    generator = torch.Generator().manual_seed(0)
    return ce.Evaluation(torch.randint(vocabulary, (sequences, length), generator=generator))


def _run(shop: Shop, case: zoo.Case) -> Path:
    """A run of two checkpoints."""

    def make(folder: Path) -> None:
        for step in (1, 2):
            case.save(folder, step, seed=step)

    return shop.good(f"run {case.name}", make)


def _files(run: Path, case: zoo.Case, step: int) -> tuple[Path, Path]:
    """Weights and configuration of a checkpoint."""
    if case.format is Format.HUGGING_FACE:
        return run / f"step{step}" / "model.safetensors", run / f"step{step}" / "config.json"
    return run / f"step_{step}.safetensors", run / "config.json"


def configurations(shop: Shop, rng: Random) -> str:
    """Fields of a configuration: hostile values, none, more; and code that they could name."""
    case = rng.choice(zoo.CASES)
    run = _run(shop, case)
    weights, config = _files(run, case, 1)
    if rng.random() < 0.1:
        fields = json.loads(config.read_text()) | hooks(config.parent, shop.spied, rng)
        config.write_text(json.dumps(fields))
        done = f"hook {fields}"
    elif rng.random() < 0.1:
        spoil_file(config, rng, (b"{", b"[" * 5000, b'"', b"1e999", b"\xef\xbb\xbf", b"NaN"))
        done = "bytes"
    else:
        done = spoil_json(config, rng, _FIELDS) if rng.random() < 0.6 else _nudge(config, rng)
    if rng.random() < 0.7 and config != _files(run, case, 2)[1]:
        # Else it is refused for not being the other's.
        shutil.copy(config, _files(run, case, 2)[1])
        done += " (both)"
    shop.note(f"{case.name}: {done}")
    return walk_and_judge(run, case.format, {1: (weights, config), 2: _files(run, case, 2)}, rng)


_NAMED = {
    "act_fn": ("relu", "gelu", "silu", "gelu_new"),
    "hidden_act": ("relu", "gelu", "silu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu"),
    "activation_function": ("relu", "gelu", "silu", "gelu_new", "gelu_fast", "tanh"),
    "normalization_type": ("LN", "LNPre", "RMS", "RMSPre", None),
    "positional_embedding_type": ("standard", "rotary", "shortformer", "none"),
    "attention_dir": ("causal", "bidirectional"), "rope_type": ("default", "linear", "dynamic"),
    "type": ("default", "linear", "yarn"), "model_type": ("llama", "mistral", "qwen2", "olmo"),
}  # fmt: skip


def _nudge(config: Path, rng: Random) -> str:
    """Other values that a field might well have: what matters must change the numbers."""
    fields = json.loads(config.read_text())
    homes = [fields, *(v for v in fields.values() if isinstance(v, dict))]
    done: list[str] = []
    for _ in range(rng.choice((1, 1, 2))):
        home = rng.choice(homes)
        name = rng.choice(sorted(home))
        value = home[name]
        if name in _NAMED:
            home[name] = rng.choice(_NAMED[name])
        elif isinstance(value, bool):
            home[name] = not value
        elif isinstance(value, int):
            home[name] = rng.choice((value + 1, value - 1, value * 2, value // 2, float(value)))
        elif isinstance(value, float):
            home[name] = rng.choice((value * 2, value / 3, value + 0.25, 0.0, 1, str(value)))
        elif value is None:
            home[name] = rng.choice((1, 0.5, True))
        else:
            continue
        done.append(f"{name} = {home[name]!r}")
    config.write_text(json.dumps(fields))
    return "; ".join(done)


def walk_and_judge(
    run: Path, format: Format, steps: dict[int, tuple[Path, Path]], rng: Random
) -> str:
    """Audit or walk a run, and compare the loss of what was measured with the oracle's."""
    if rng.random() < 0.15:
        found = audit(ce.open_trajectory(run), inventory)
        for detail in found["detail"]:
            check_reason(detail)
        return "refused" if found.height else "right"
    measure = rng.choice(_MEASURES)
    data = evaluation()
    ledger = ce.walk(
        ce.open_trajectory(run), data, [measure], ["zero"], run.parent / "out", "cpu",
        dtype=rng.choice(("float32", "float64")),
        settings=_SETTINGS if measure == "value" else None,
    )  # fmt: skip
    rows = ledger.table("checkpoints").collect()
    verdicts: set[str] = set()
    for row in rows.iter_rows(named=True):
        if row["status"] != "measured":
            check_reason(row["reason"])
            verdicts.add("refused")
            continue
        expected = expected_loss(format, *steps[row["step"]], data.tokens)
        if expected is None:
            verdicts.add("unchecked")
        elif is_right(row["loss"], expected):
            verdicts.add("right")
        else:
            raise SilentError(f"step {row['step']}: loss {row['loss']}, and {expected} by others")
    _check_numbers(ledger)
    return next(v for v in ("refused", "unchecked", "right") if v in verdicts)


def _check_numbers(ledger: ce.Ledger) -> None:
    """Null says "cannot be said"; NaN never does."""
    for name in ledger.tables:
        table = ledger.table(name).collect()
        for column in table.select(cs.float()).iter_columns():
            # The norm of a tensor that holds NaN is NaN: the table says what is there.
            if column.is_nan().any() and (name, column.name) != ("tensors", "norm"):
                raise SilentError(f"NaN in {name}.{column.name}")


# Safetensors.

_DTYPES = ("F64", "F32", "F16", "BF16", "I8", "I64", "BOOL", "U8", "F8_E4M3", "F8_E5M2", "C64",
           "X", "F4", "", None, "F8_E8M0", "U16")  # fmt: skip
_SHAPES = ([], [0], [-1], [10**12], [2**40, 2**40], [1.5], None, [1] * 1000, "x", [True])
_OFFSETS = ([0, 0], [0, 10**15], [8, 4], [-4, 4], None, [0], [2**63, 2**64], "x")
_SUFFIXES = ("x", "\n", "\0", "é", "." * 600, ".lora_A.weight", "_scale", ".weight")
_PREFIXES = ("module.", "model.", "_orig_mod.", "transformer.", "a.b.", "")
_SIGNS = (b"{", b'"', b"}", b"F64", b"\xff" * 8)


def _header(file: Path, rng: Random) -> str:
    """Spoil what a safetensors file says of itself."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    done: list[str] = []
    for _ in range(rng.choice((1, 1, 3))):
        name = rng.choice([k for k in header if k != "__metadata__"])
        entry = header[name]
        match rng.randrange(6):
            case 0:
                entry["dtype"] = rng.choice(_DTYPES)
            case 1:
                turned = list(reversed(entry["shape"])) if isinstance(entry["shape"], list) else 1
                entry["shape"] = rng.choice((*_SHAPES, turned))
            case 2:
                entry["data_offsets"] = rng.choice(_OFFSETS)
            case 3:
                header[name + rng.choice(_SUFFIXES)] = dict(entry)
            case 4:
                header[rng.choice(_PREFIXES) + name] = header.pop(name)
            case _:
                header["__metadata__"] = rng.choice(VALUES)
        done.append(f"{name}: {entry}")
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    file.write_bytes(len(said).to_bytes(8, "little") + said + content[8 + size :])
    return "header " + "; ".join(done)


def _changed(tensors: dict[str, Any], rng: Random) -> str:
    """Change tensors: their numbers, dtypes, shapes, names."""
    done: list[str] = []
    for _ in range(rng.choice((1, 1, 3))):
        name = rng.choice(sorted(map(str, tensors)))
        value = tensors.get(name)
        match rng.randrange(5):
            case 0 | 1 | 2 if isinstance(value, Tensor) and value.is_floating_point():
                which = rng.choice(sorted(_NUMBERS))
                with suppress(RuntimeError, IndexError):
                    tensors[name] = _NUMBERS[which](value)
            case 3:
                which = "gone"
                tensors.pop(name, None)
            case _:
                which = rng.choice(_PREFIXES) + name + rng.choice((*_SUFFIXES, ""))
                tensors[which] = tensors.pop(name, None)
        done.append(f"{name}: {which[:60]}")
    return "; ".join(done)


def _one(value: float) -> Any:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[0] = value
        return changed

    return change


_NUMBERS: dict[str, Any] = {
    "integers": lambda t: t.to(torch.int8), "booleans": lambda t: t.bool(),
    "complex": lambda t: t.to(torch.complex64), "eighths": lambda t: t.to(torch.float8_e4m3fn),
    "half": lambda t: t.half(), "brain": lambda t: t.bfloat16(), "double": lambda t: t.double(),
    "nan": lambda t: t * float("nan"), "one nan": _one(float("nan")),
    "one infinity": _one(float("inf")), "large": lambda t: t * 1e30, "one large": _one(1e38),
    "small": lambda t: t * 1e-30, "zero": lambda t: t * 0, "scaled": lambda t: t * 3,
    "beyond": lambda t: t.double() * 1e300, "denormal": lambda t: t * 1e-42,
    "none": lambda t: t[:0], "turned": lambda t: t.T.contiguous(), "one more": lambda t: t[None],
    "repeated": lambda t: torch.cat([t, t]), "shorter": lambda t: t[:-1].clone(),
    "flat": lambda t: t.reshape(-1), "unsigned": lambda t: t.to(torch.uint16),
}  # fmt: skip


def safetensors(shop: Shop, rng: Random) -> str:
    """Headers, bytes, numbers and names of safetensors."""
    case = rng.choice(zoo.CASES)
    run = _run(shop, case)
    weights, config = _files(run, case, 1)
    chance = rng.random()
    if chance < 0.35:
        done = _header(weights, rng)
    elif chance < 0.6:
        spoil_file(weights, rng, _SIGNS)
        done = "bytes"
    else:
        tensors = load_file(weights)
        done = _changed(tensors, rng)
        kept = {k: v.contiguous() for k, v in tensors.items() if v is not None}
        save_file(kept, weights, metadata={"format": "pt"})
    shop.note(f"{case.name}: {done}")
    return walk_and_judge(run, case.format, {1: (weights, config), 2: _files(run, case, 2)}, rng)


# Pickles.


def pickles(shop: Shop, rng: Random) -> str:
    """Files of torch.save: planted code, spoilt archives, what is no tensor, old forms."""
    case = rng.choice(zoo.CASES)
    run = _run(shop, case)
    weights, config = _files(run, case, 1)
    state: dict[Any, Any] = dict(load_file(weights))
    weights.unlink()
    hugging = case.format is Format.HUGGING_FACE
    file = weights.with_name("pytorch_model.bin") if hugging else weights.with_suffix(".pt")
    chance = rng.random()
    whole: Any = state
    if rng.random() < 0.3:
        whole = {"model_state_dict": state, "optimizer": {"state": {0: {}}, "param_groups": []}}
    done = ""
    if chance < 0.25:
        spy = Spy(shop.spied, rng)
        place = rng.choice([whole, state])
        place[rng.choice(("step", *map(str, state), spy))] = spy
        done = f"spy {spy.way} "
    elif chance < 0.45:
        done = _changed(state, rng)
    elif chance < 0.6:
        name = rng.choice(sorted(state))
        state[name], done = _odd(rng, state[name])
    old = rng.random() < 0.3
    try:
        torch.save(whole, file, _use_new_zipfile_serialization=not old)
    except Exception as error:  # some of it cannot be saved in the old form
        shop.note(error)
        file.write_bytes(pickle.dumps({"a": Spy(shop.spied, rng)}, protocol=rng.randrange(6)))
    if chance > 0.6:
        done += _archive(file, shop, rng) if not old and rng.random() < 0.6 else "bytes"
        if done == "bytes":
            spoil_file(file, rng, (pickle.dumps(Spy(shop.spied, rng)), b"cos\nsystem\n", b"."))
    shop.note(f"{case.name}: {'old ' if old else ''}{done}")
    return walk_and_judge(run, case.format, {1: (file, config), 2: _files(run, case, 2)}, rng)


def _odd(rng: Random, tensor: Tensor) -> tuple[Any, str]:
    """Something that is no plain tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd: dict[str, Any] = {
            "none": None, "number": 3, "list": tensor.tolist(), "text": "x", "empty": {},
            "sparse": torch.ones(2, 2).to_sparse(), "meta": tensor.to("meta"),
            "nested": torch.nested.nested_tensor([torch.ones(2)]),
            "quantised": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
            "expanded": torch.ones(()).expand(tensor.shape),
            "parameter": torch.nn.Parameter(tensor.clone(), tensor.is_floating_point()),
            "conjugate": torch.conj(tensor.to(torch.complex64)).imag,
            "strided": torch.cat([tensor, tensor], -1)[..., ::2],
        }  # fmt: skip
    which = rng.choice(sorted(odd))
    return odd[which], which


def _archive(file: Path, shop: Shop, rng: Random) -> str:
    """Pack a zip archive again with other members."""
    with zipfile.ZipFile(file) as archive:
        members = [(one.filename, archive.read(one)) for one in archive.infolist()]
    way = rng.choice(("deflated", "renamed", "spoilt", "doubled", "spy", "bomb", "claims"))
    made = io.BytesIO()
    method = zipfile.ZIP_STORED if way not in ("deflated", "bomb") else zipfile.ZIP_DEFLATED
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            data = content
            if way == "renamed" and rng.random() < 0.3:
                name = rng.choice((name + "x", "../" + name, name.replace("data", "d"), "/" + name))
            if way == "spoilt" and rng.random() < 0.3:
                data = spoil_bytes(data, rng)
            if way == "spy" and name.endswith("data.pkl"):
                data = pickle.dumps({"a": Spy(shop.spied, rng)}, protocol=2)
            if way == "claims" and name.endswith("data.pkl"):
                # A tensor that says that it has more elements than its storage holds.
                data = data.replace(b"K\x12", b"J\xff\xff\xff\x7f").replace(b"K\x18", b"M\xff\xff")
            if way == "bomb" and name.endswith("/0"):
                data = bytes(1 << 28)
            archive.writestr(name, data)
            if way == "doubled" and rng.random() < 0.3:
                archive.writestr(name, data[::-1])
    file.write_bytes(made.getvalue())
    return way


# Names of steps.

_NAMES = {
    "checkpoint-3": 3, "checkpoint_12": 12, "step7": 7, "step_007": 7, "step-40": 40,
    "iter_500": 500, "checkpoint-1000000000000": 10**12, "global_step9": 9, "model_step_5": 5,
}  # fmt: skip
"""Names whose step anybody would tell the same way."""
_ODD_NAMES = (
    "step_٣", "checkpoint-²", "checkpoint-1.5", "checkpoint--5", "step_" + "9" * 200, "best", "-1",
    "checkpoint-9223372036854775807", "checkpoint-9223372036854775808", "a\nb", "é" * 100,
    "epoch=1-step=2", "final", "checkpoint-1 (copy)", "step_1_of_3", "seed3", "checkpoint-1e3",
    "step_0x10", "CHECKPOINT-6", "checkpoint-", "1", "2_3", "v1.2.3", "x" * 255, "step_\t4", "...",
    "checkpoint-4.old", "checkpoint-4~", "tmp-checkpoint-4", "\\", "%s", "[red]step_3[/red]",
)  # fmt: skip
_BESIDE = ("config.json", "model.safetensors", "model.safetensors.index.json", "trainer_state.json",
           "adapter_config.json", "training.json", "pytorch_model.bin", "README.md")  # fmt: skip


def names(shop: Shop, rng: Random) -> str:
    """Folders and files of checkpoints under other names, twice, linked, nested."""
    case = zoo.case_named(rng.choice(("gpt2", "llama", "tl-ln-gelu", "tl-attn-only")))
    run = _run(shop, case)
    hugging = case.format is Format.HUGGING_FACE
    owners = {_digest(_files(run, case, step)[0]): step for step in (1, 2)}
    told: dict[int, Path] = {}
    plain = True
    for _ in range(rng.choice((1, 1, 2, 4))):
        entries = sorted(p for p in run.iterdir() if hugging or p.suffix)
        entry = rng.choice(entries)
        known = rng.random() < 0.4
        name = rng.choice(tuple(_NAMES) if known else (*_ODD_NAMES, *_BESIDE))
        target = run / (name if hugging or name in _BESIDE else f"{name}{entry.suffix}")
        if os.path.lexists(target):
            continue
        plain = plain and known and entry.name != "config.json"
        way = rng.choice(("move", "move", "copy", "link", "loop", "special", "nest"))
        shop.note(f"{way} {entry.name} to {target.name!r}")
        plain = plain and way == "move"
        with suppress(OSError):
            match way:
                case "move":
                    entry.rename(target)
                    told[_NAMES.get(name, -1)] = target
                case "copy" if entry.is_dir():
                    shutil.copytree(entry, target, symlinks=True)
                case "copy":
                    shutil.copy(entry, target, follow_symlinks=False)
                case "link":
                    target.symlink_to(entry)
                case "loop":
                    target.symlink_to(run)
                case "special":
                    shop.note(special(target, rng))
                case _:
                    target.mkdir()
                    entry.rename(target / entry.name)
    ledger = ce.walk(
        ce.open_trajectory(run), evaluation(), ["capacity"], ["zero"], shop.folder / "out", "cpu"
    )
    rows = list(ledger.table("checkpoints").collect().iter_rows(named=True))
    for row in rows:
        check_reason(row["reason"])
    losses = _losses(shop, case)
    for row in rows:
        if row["status"] == "measured" and not any(
            abs(row["loss"] - loss) < 1e-5 for loss in losses.values()
        ):
            raise SilentError(f"step {row['step']} has the loss of no checkpoint")
    measured = {row["step"]: row["loss"] for row in rows if row["status"] == "measured"}
    if plain and len(told) == 1:
        (step, path), = told.items()  # fmt: skip
        weights = path / "model.safetensors" if hugging else path
        whose = owners[_digest(weights)]
        if step not in measured or abs(measured[step] - losses[whose]) > 1e-5:
            raise SilentError(f"{path.name} is step {step}, and measured were {sorted(measured)}")
        return "right"
    return "right" if measured else "refused"


def _digest(path: Path) -> int:
    return hash(path.read_bytes())


def _losses(shop: Shop, case: zoo.Case) -> dict[int, float]:
    """The loss of each good checkpoint, by the oracle; once a process."""
    key = (shop.root, case.name)
    if key not in _KEPT:
        good = shop.root / "good" / f"run {case.name}"
        found = {s: expected_loss(case.format, *_files(good, case, s), evaluation().tokens)
                 for s in (1, 2)}  # fmt: skip
        _KEPT[key] = {step: one[0] for step, one in found.items() if one is not None}
        assert len(_KEPT[key]) == 2, case.name
    return _KEPT[key]


_KEPT: dict[tuple[Path, str], dict[int, float]] = {}
