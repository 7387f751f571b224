"""Digests, norms and roles of tensors, against values worked out by hand."""

from __future__ import annotations

import hashlib
import math
import re

import pytest
import torch
from torch import Tensor
from trajectory_folders import reads_all

from circuit_econ.model import Format, Source
from circuit_econ.model.weights import Inventory
from circuit_econ.tables import TABLES
from circuit_econ.trajectory import checkpoint_digest, describe, fingerprint


def source(**tensors: Tensor) -> Source:
    return Source(Format.HUGGING_FACE, {}, tensors, "here")


def row(tensor: Tensor) -> dict[str, object]:
    held = source(w=tensor)
    return describe(3, held, reads_all(held)).row(0, named=True)


def test_a_tensor_in_numbers() -> None:
    tensor = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    raw = b"float32 [2, 2]\0" + tensor.numpy().tobytes()
    assert row(tensor) == {
        "step": 3,
        "tensor": "w",
        "role": "read",
        "shape": "[2, 2]",
        "dtype": "float32",
        "digest": hashlib.sha256(raw).hexdigest()[:32],
        "norm": 5.0,
        "nonfinite": 0,
    }


def test_roles() -> None:
    held = source(w=torch.ones(2), mask=torch.full((2,), -math.inf), more=torch.ones(3))
    roles = Inventory(frozenset({"w"}), frozenset({"bias"}), frozenset({"mask"}))
    table = describe(0, held, roles)
    assert table.schema == TABLES["tensors"]
    assert table.select("tensor", "role").rows() == [
        ("bias", "missing"),
        ("more", "extra"),
        ("w", "read"),
    ]
    assert table.row(0) == (0, "bias", "missing", None, None, None, None, None)


def test_a_checkpoint_without_tensors() -> None:
    held = source()
    assert describe(0, held, reads_all(held)).schema == TABLES["tensors"]
    assert describe(0, held, reads_all(held)).height == 0


def test_the_digest_depends_on_bytes_shape_and_dtype() -> None:
    plain = torch.arange(6.0)
    others = [plain.reshape(2, 3), plain.reshape(3, 2), plain.to(torch.float64), -plain, plain[:5]]
    same_bytes = plain.view(torch.int32)
    digests = [row(t)["digest"] for t in [plain, *others, same_bytes]]
    assert len(set(digests)) == len(digests)


def test_the_digest_does_not_depend_on_the_memory_layout() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    strided = torch.arange(6.0).reshape(2, 3).T.contiguous().T
    assert not strided.is_contiguous()
    assert row(strided) == row(tensor)
    assert row(torch.stack([tensor, tensor], dim=-1)[..., 0]) == row(tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8])
def test_every_dtype_has_a_norm(dtype: torch.dtype) -> None:
    found = row(torch.tensor([3.0, 4.0]).to(dtype))
    assert (found["norm"], found["dtype"]) == (5.0, str(dtype).removeprefix("torch."))


def test_odd_tensors() -> None:
    assert row(torch.tensor(-2.0))["norm"] == 2.0
    assert row(torch.tensor(-2.0))["shape"] == "[]"
    assert row(torch.zeros(0, 4))["norm"] == 0.0
    assert row(torch.tensor([True, False]))["norm"] == 1.0
    assert row(torch.tensor([3 + 4j]))["norm"] == 5.0


def test_the_norm_is_taken_in_float64_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_CHUNK", 7)
    assert row(torch.full((50,), 2.0))["norm"] == pytest.approx(math.sqrt(200), rel=1e-15)
    assert row(torch.tensor([3e30, 4e30]))["norm"] == pytest.approx(5e30, rel=1e-6)
    tensor = torch.zeros(50)
    tensor[[1, 20, 49]] = math.inf
    assert (row(tensor)["norm"], row(tensor)["nonfinite"]) == (math.inf, 3)


def test_nan_and_infinity_are_told_apart_by_the_norm() -> None:
    infinite = row(torch.tensor([1.0, math.inf, -math.inf]))
    assert (infinite["norm"], infinite["nonfinite"]) == (math.inf, 2)
    both = row(torch.tensor([1.0, math.inf, math.nan]))
    assert math.isnan(both["norm"])  # type: ignore[arg-type]
    assert both["nonfinite"] == 2


def every_dtype() -> list[torch.dtype]:
    named = [getattr(torch, name) for name in dir(torch)]
    found = {d for d in named if isinstance(d, torch.dtype) and not str(d).startswith("torch.q")}
    return sorted(found, key=str)


@pytest.mark.parametrize("dtype", every_dtype(), ids=str)
def test_no_dtype_stops_a_description(dtype: torch.dtype) -> None:
    """What nobody reads may be packed codes, of which there is no norm."""
    found = row(torch.zeros(16, dtype=torch.uint8).view(dtype))
    assert found["dtype"] == str(dtype).removeprefix("torch.")
    packed = re.search(r"bits|float4|u?int[1-7]$", str(dtype))
    assert (found["norm"] is None) == (found["nonfinite"] is None) == bool(packed)
    assert packed or found["norm"] < 1e-30  # float8_e8m0fnu has no zero


def digest(roles: Inventory | None = None, **tensors: Tensor) -> str:
    held = source(**tensors)
    return checkpoint_digest(describe(0, held, roles or reads_all(held)))


def test_the_checkpoint_digest_is_over_what_is_read() -> None:
    a, b = torch.ones(2), torch.zeros(2)
    whole = digest(a=a, b=b)
    assert len(whole) == 32
    assert digest(b=b, a=a) == whole
    assert digest(a=b, b=a) != whole
    assert digest(a=a) != whole
    only = Inventory(frozenset("ab"), frozenset("c"), frozenset("d"))
    assert digest(only, a=a, b=b, x=a, d=b) == whole
    held = source(a=a, b=b)
    assert checkpoint_digest(describe(0, held, reads_all(held)).reverse()) == whole
