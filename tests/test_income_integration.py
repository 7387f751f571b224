"""What integrals along the dial may be off by, against a model whose answer is known."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_income import made, random_model, tables_of
from torch import Tensor

import circuit_econ as ce
from circuit_econ.evaluation import Evaluation
from circuit_econ.graph.counting import bounds
from circuit_econ.measures import Context, untrained_flows
from circuit_econ.measures.flows import trade
from circuit_econ.measures.income import IncomeSettings, cut_of
from circuit_econ.measures.income_economy import Economy
from circuit_econ.measures.untrained_flows import plain_flows
from circuit_econ.model import Format, Source
from circuit_econ.model.bridge import boot


def parts_of_switch(steepness: float, at: float) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A head that turns another's attention around, all at once at some dial.

    At dial α head 0 of layer 0 writes α at position 1. From there the head of layer 1 looks at
    position 1, where it finds the answer, with weight σ(steepness (α − at)): what flows through its
    keys is a step.
    """
    config, t = random_model(
        n_layers=2, n_heads=1, d_head=1, d_model=4, n_ctx=2, d_vocab=2, attn_only=True,
        normalization_type=None,
    )  # fmt: skip
    for tensor in t.values():
        tensor.zero_()
    # Coordinates: 1 that this is position 1, 2 and 3 what the heads write.
    t["pos_embed.W_pos"][1, 1] = 1
    first, second = "blocks.0.attn.", "blocks.1.attn."
    t[first + "W_Q"][0, 1, 0] = 60
    t[first + "W_K"][0, 1, 0] = 1
    t[second + "W_Q"][0, 1, 0] = steepness
    t[second + "W_K"][0, 1, 0] = -at
    t[second + "W_K"][0, 2, 0] = 1
    for block, out in ((first, 2), (second, 3)):
        t[block + "W_V"][0, 1, 0] = 1
        t[block + "W_O"][0, 0, out] = 1
    t["unembed.W_U"][3, 0] = 3
    return config, t


def asked(sequences: int) -> Evaluation:
    targets = torch.tensor([[-100, 0]]).expand(sequences, 2)
    return Evaluation(torch.zeros(sequences, 2, dtype=torch.int64), targets)


def switch(steepness: float, at: float) -> Context:
    return Context(made(*parts_of_switch(steepness, at)), asked(1), 0, ("zero",))


def truth(context: Context, steepness: float, at: float) -> dict[tuple[str, str, str], float]:
    """Flows by Gauss–Legendre nodes on pieces that grow from the step outwards."""
    economy = Economy(context, "zero", cut_of(context.sizes, IncomeSettings(), context.plan))
    ends = [at + sign * 4.0**n / steepness for n in range(13) for sign in (-1, 1)]
    ends = sorted({0.0, 1.0, at, *(x for x in ends if 0 < x < 1)})
    nodes, weights = np.polynomial.legendre.leggauss(12)
    ((tokens, targets, _, bases),) = economy._panels(None, economy._baselines)
    total = np.zeros(len(economy.pairs))
    for low, high in pairwise(ends):
        for node, weight in zip(nodes, weights, strict=True):
            alpha = low + (high - low) * (node + 1) / 2
            sold = trade(economy.dialled.run(tokens, targets, bases, alpha))
            total += weight * (high - low) / 2 * (sold.signal + sold.crowding)[:, 0].numpy()
    return {(s, *port): float(x) for (s, port), x in zip(economy.pairs, total, strict=True)}


@pytest.mark.parametrize(
    ("steepness", "at", "converges"),
    [
        (10, 0.5, True),
        (30, 0.37, True),
        (100, 0.37, False),
        (1e3, 0.51, False),
        (1e6, 0.433, False),
        (1e6, 0.5, False),  # on a node of every rule
    ],
)
def test_flows_are_within_their_integration_error(
    steepness: float, at: float, converges: bool, caplog: pytest.LogCaptureFixture
) -> None:
    context = switch(steepness, at)
    known, found = truth(context, steepness, at), tables_of(context)
    gap = found["income_gap"].row(0, named=True)
    assert sum(known.values()) == pytest.approx(gap["product"], abs=1e-9)
    edges = found["flows"].select("supplier", "buyer", "port").rows()
    flows = found["flows"].select(pl.col("signal") + pl.col("crowding"))["signal"].to_numpy()
    errors = found["flows"]["integration_error"].to_numpy()
    off = np.abs(flows - [known[edge] for edge in edges])
    assert (off <= errors + 1e-9).all()
    step = edges.index(("a0.h0", "a1.h0", "k"))
    assert known[edges[step]] > 0.3
    # What nobody reads has no flow, and no error where nothing was missed.
    assert (errors[edges.index(("a0.h0", "a1.h0", "q"))] == 0) == converges
    incomes = found["income"]
    mine = [sum(x for edge, x in known.items() if edge[0] == c) for c in incomes["component"]]
    off = np.abs(incomes["income"].to_numpy() - mine)
    assert (off <= incomes["integration_error"].to_numpy() + 1e-9).all()
    assert gap["converged"] is converges
    assert errors[step] < 0.01 if converges else errors[step] > 0.01 * gap["product"]
    assert len(caplog.records) == (not converges)


# ── settled to what decides whether a flow counts ─────────────────────────────────────────────────

UNTRAINED = 5


@pytest.fixture(scope="module")
def small_switch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The switch is worth 0.02 nats beside a head that is worth ten."""
    config, small = parts_of_switch(32, 0.37)
    config |= {"n_heads": 2, "d_model": 5, "initializer_range": 0.2}
    t = random_model(**config)[1]
    for name, tensor in t.items():
        tensor.zero_()
        tensor[tuple(map(slice, small[name].shape))] = small[name]
    t["blocks.0.attn.W_V"][1, 1, 0] = t["blocks.0.attn.W_O"][1, 0, 4] = 1
    t["unembed.W_U"][[1, 3, 4], [1, 0, 0]] = torch.tensor([10.0, 0.06, 24.0]).double()
    folder = tmp_path_factory.mktemp("switch")
    (folder / "config.json").write_text(json.dumps(config))
    for step in (0, 1):
        save_file({k: v.contiguous() for k, v in t.items()}, folder / f"step_{step}.safetensors")
    return folder


def walked(folder: Path, out: Path, *measures: str) -> ce.Ledger:
    given = {"income": ce.IncomeSettings(reference_groups=0)}
    if "circuits" in measures:
        given["circuits"] = ce.CircuitSettings(untrained=UNTRAINED)
    return ce.walk(
        ce.open_trajectory(folder), asked(4), measures, ["zero", "mean"], out, dtype="float64",
        settings=given,
    )  # fmt: skip


def settled(ledger: ce.Ledger) -> tuple[dict[str, Any], pl.DataFrame]:
    rows = [
        ledger.table(name).filter(pl.col("baseline") == "zero") for name in ("income_gap", "flows")
    ]
    gap, flows = (table.filter(pl.col("step") == 0).collect() for table in rows)
    size = (pl.col("signal") + pl.col("crowding")).abs()
    return gap.row(0, named=True), flows.with_columns(size=size)


def test_flows_are_settled_to_the_bounds_by_which_they_count(
    small_switch: Path, tmp_path: Path
) -> None:
    (gap, alone), (counting, flows) = (
        settled(walked(small_switch, tmp_path / name, name)) for name in ("income", "circuits")
    )
    (kept,) = (tmp_path / ".untrained").glob("*.json")
    reached = bounds(pl.DataFrame(json.loads(kept.read_text())["rows"]))
    switched = pl.col("port") == "k"
    assert 0.01 < flows.filter(switched)["size"].max() < reached["capital flow"] < 0.05
    bound = pl.col("buyer").replace_strict(
        {"logits": reached["final flow"]}, default=reached["capital flow"]
    )
    assert flows["se"].to_list() == [0] * flows.height  # all sequences are one
    allowed = pl.max_horizontal(bound, "size") / 10
    assert gap["converged"] and counting["converged"]
    assert flows.filter(pl.col("integration_error") > allowed).is_empty()
    # Nobody counts: a hundredth of the product decides, and that is ten nats.
    product = pl.lit(0.01 * gap["product"])
    assert alone.filter(pl.col("integration_error") > allowed)["port"].to_list() == ["k"]
    fallback = pl.max_horizontal(product, "size") / 10
    assert alone.filter(pl.col("integration_error") > fallback).is_empty()
    assert gap["nodes"] < counting["nodes"]


def test_bounds_are_measured_once_for_all_checkpoints_and_measures(
    small_switch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def counted(context: Context, baseline: str) -> pl.DataFrame:
        measured.append(baseline)
        return plain_flows(context, baseline)

    monkeypatch.setattr(untrained_flows, "plain_flows", counted)
    ledger = walked(small_switch, tmp_path / "run", "circuits")
    assert ledger.steps("counting") == [0, 1]
    assert measured == ["zero"] * UNTRAINED  # circuits are not looked for under the mean
    measured.clear()
    source = Source(
        Format.TRANSFORMER_LENS,
        json.loads((small_switch / "config.json").read_text()),
        load_file(small_switch / "step_0.safetensors"),
        "the switch",
    )
    found = ce.measure(
        boot(source, torch.float64), asked(4), ["circuits"], ["zero"], dtype="float64",
        settings={
            "income": ce.IncomeSettings(reference_groups=0),
            "circuits": ce.CircuitSettings(untrained=UNTRAINED),
        },
    )  # fmt: skip
    assert measured == ["zero"] * UNTRAINED
    nodes = ledger.table("income_gap").filter(pl.col("baseline") == "zero").collect()["nodes"]
    assert found["income_gap"]["nodes"].to_list() == [nodes[0]]
