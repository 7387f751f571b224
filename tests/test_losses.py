"""Losses tile by tile against plain cross-entropies; products in low precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from circuit_econ.model import losses as room
from circuit_econ.model.losses import negative_log_likelihoods
from circuit_econ.model.products import Products, Rounding, round_tf32


def problem(
    positions: int, vocabulary: int, width: int = 6, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(positions, width, generator=generator, dtype=dtype)
    matrix = torch.randn(vocabulary, width, generator=generator, dtype=dtype)
    targets = torch.randint(vocabulary, (positions,), generator=generator)
    return x, targets, matrix, torch.randn(vocabulary, generator=generator, dtype=dtype)


@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (7, 11), (512, 1024)], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_tiles_add_up_to_cross_entropies(
    tile: tuple[int, int], biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, targets, matrix, bias = problem(13, 37)
    given = bias if biased else None
    plain = F.cross_entropy(F.linear(x, matrix, given), targets, reduction="none")
    monkeypatch.setattr(room, "TILE", tile)
    with torch.no_grad():
        found = negative_log_likelihoods(x, targets, matrix, given)
        assert torch.allclose(found, plain, rtol=1e-12)
        monkeypatch.setattr(room, "_LOGITS", 1)
        with torch.enable_grad():  # where gradients are wanted, positions are cut, not vocabulary
            assert torch.allclose(
                negative_log_likelihoods(x, targets, matrix, given), plain, rtol=1e-12
            )


def test_no_tile_holds_more_than_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    x, targets, matrix, _ = problem(40, 100)
    monkeypatch.setattr(room, "TILE", (16, 32))
    sizes: list[int] = []
    addmm = torch.addmm

    def counted(*arguments: torch.Tensor, **options: object) -> torch.Tensor:
        product = addmm(*arguments, **options)  # type: ignore[call-overload]
        sizes.append(product.numel())
        return product

    monkeypatch.setattr(torch, "addmm", counted)
    with torch.no_grad():
        negative_log_likelihoods(x, targets, matrix, None)
    assert len(sizes) == 3 * 4 and max(sizes) == 16 * 32


def test_a_position_that_loses_more_than_a_number_can_hold_is_still_right() -> None:
    x, targets, matrix, _ = problem(9, 20, dtype=torch.float32)
    x[3] *= 200
    plain = F.cross_entropy(F.linear(x, matrix), targets, reduction="none")
    assert plain[3] > 100
    with torch.no_grad():
        assert torch.allclose(negative_log_likelihoods(x, targets, matrix, None), plain, rtol=1e-5)


def test_nothing_scored_has_no_losses() -> None:
    x, targets, matrix, _ = problem(4, 5)
    assert negative_log_likelihoods(x[:0], targets[:0], matrix, None).shape == (0,)


def test_tf32_keeps_ten_bits() -> None:
    exact = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -3.3, 0.0, 1e-30])
    rounded = round_tf32(exact)
    assert rounded[:4].tolist() == [1.0, 1 + 2**-10, 1 + 2**-10, 1.0]
    assert rounded[5] == 0
    assert ((rounded - exact).abs() <= exact.abs() * 2**-11).all() and rounded[4] != exact[4]


@pytest.mark.parametrize(
    ("rounding", "bits"), [(Rounding.EXACT, 22), (Rounding.TF32, 10), (Rounding.BFLOAT16, 7)]
)
def test_products_err_by_their_bits(rounding: Rounding, bits: int) -> None:
    x, _, matrix, bias = problem(64, 128, 64, torch.float32)
    exact = F.linear(x.double(), matrix.double(), bias.double())
    found = Products(rounding, [matrix]).linear(x, matrix, bias)
    assert found.dtype == torch.float32
    error = (found - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()
    assert 2.0 ** -(bits + 4) < error < 2.0**-bits
