"""Edges against a copy of the stream per reader and a plain hook loop, and by their laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
import zoo
from scipy import stats
from slow import Slow
from torch import Tensor

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan, measures_of
from circuit_econ.measures.edges import EDGES, EdgeSettings, _chosen, sampling
from circuit_econ.measures.flows import pairs
from circuit_econ.measures.income import INCOME, IncomeSettings
from circuit_econ.measures.income_parts import Port
from circuit_econ.measures.income_pass import Dialled
from circuit_econ.measures.statistics import ratio_estimate
from circuit_econ.measures.sweep import sweep
from circuit_econ.measures.value import VALUE, ValueSettings
from circuit_econ.measures.variants import Cut, Reader, Variant
from circuit_econ.model import Model
from circuit_econ.model.intervene import Baselines, draw_donors, parse_component
from circuit_econ.tables import BASELINES, TABLES

CASES = pytest.mark.parametrize("case", zoo.CASES, ids=lambda c: c.name)
LENGTH, ALL = 7, EdgeSettings(largest=100_000, drawn=0)
QUICK = IncomeSettings(nodes=5, most_nodes=5, stages=False, reference_groups=0)


def context_of(
    case: zoo.Case, baselines: tuple[str, ...] = BASELINES, plan: Plan | None = None
) -> Context:
    tokens = zoo.tokens_of(case, 5, seed=1, length=LENGTH)
    reference = zoo.tokens_of(case, 4, seed=2, length=LENGTH)
    evaluation = Evaluation(tokens, zoo.targets_of(case, tokens, seed=1), reference)
    model = Model.from_source(case.source(0), torch.float64)
    return Context(model, evaluation, 7, baselines, plan or Plan(3, 4), seed=0)


def with_flows(context: Context) -> Context:
    context.tables = dict(INCOME.run(context, QUICK))
    return context


def changes(context: Context, name: str, baseline: str) -> Tensor:
    """What the stream gains when a component falls back to its baseline, ``[S, T, D]``."""
    model, evaluation = context.model, context.evaluation
    part = parse_component(name, model.config)
    reference = evaluation.reference
    assert reference is not None
    donors = draw_donors(len(evaluation.tokens), len(reference), same_set=False, seed=1)
    theirs = reference[donors]
    output = part.output(model, model.trace(evaluation.tokens), evaluation.tokens)
    found = Baselines(model, reference, [baseline], [part], panel=8)
    instead = found.replacement(part, baseline, output, (model.trace(theirs), theirs))
    return part.write(model, instead - output)


def slow_losses(context: Context, nudges: dict[Port, Tensor]) -> Tensor:
    """Nats per sequence with single readers' copies of the stream changed."""
    model, evaluation = context.model, context.evaluation
    nothing = dict.fromkeys(Dialled(model).suppliers, torch.zeros(()))
    slow = Slow(model, nothing, 1.0, nudges=nudges)
    targets = evaluation.targets
    return slow.run(evaluation.tokens, targets).detach()


def ports_of(context: Context, port: Port) -> list[Port]:
    """A port with that of the norm's scale, where there is one."""
    scaled = context.model.config.qk_norm and port.port in ("q", "k")
    return [port, Port(port.buyer, f"{port.port}_scale")] if scaled else [port]


def edge(context: Context, supplier: str, port: Port, baseline: str) -> Variant:
    config = context.model.config
    buyer = None if port.buyer == "logits" else parse_component(port.buyer, config)
    return Cut((parse_component(supplier, config),), baseline, reader=Reader(buyer, port.port))


@CASES
def test_every_kind_of_edge_is_that_of_a_copy_per_reader(case: zoo.Case) -> None:
    context = context_of(case)
    generator = np.random.default_rng(0)
    everything = [p for p in pairs(Dialled(context.model)) if not p[1].port.endswith("_scale")]
    chosen = []
    for kind in ("q", "k", "v", "in", "logits"):
        here = [
            (s, p) for s, p in everything if kind == ("logits" if p.buyer == "logits" else p.port)
        ]
        chosen += [here[n] for n in generator.permutation(len(here))[:2]]
    assert len(chosen) >= 8
    keys = [(s, p, b) for s, p in chosen for b in BASELINES]
    swept = sweep(context, [edge(context, *key) for key in keys])
    clean = slow_losses(context, {})
    assert torch.allclose(swept.clean[swept.order.argsort()], clean, atol=1e-9)
    largest = 0.0
    for row, (supplier, port, baseline) in zip(swept.difference, keys, strict=True):
        change = changes(context, supplier, baseline)
        nudges = dict.fromkeys(ports_of(context, port), change)
        wanted = (slow_losses(context, nudges) - clean)[swept.order]
        assert torch.allclose(row, wanted, atol=1e-9), (supplier, port, baseline)
        largest = max(largest, float(wanted.abs().max()))
    assert largest > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "neox", "qwen3", "llama", "tl-attn-only"])
def test_cutting_every_edge_of_a_component_takes_it_out(name: str) -> None:
    context = context_of(zoo.case_named(name), ("mean",))
    change = changes(context, "a0.h0", "mean")
    nudges = {p: change for s, p in pairs(Dialled(context.model)) if s == "a0.h0"}
    found = slow_losses(context, nudges) - slow_losses(context, {})
    swept = sweep(context, [Variant((parse_component("a0.h0", context.model.config),), "mean")])
    assert torch.allclose(swept.difference[0], found[swept.order], atol=1e-9)
    assert float(found.abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "neox", "neox-sequential"])
def test_edges_are_those_of_a_hook_loop_that_edits_one_readers_input(name: str) -> None:
    case = zoo.case_named(name)
    context = context_of(case, ("zero",))
    bridge = zoo.shared_bridge(case)
    bridge.set_use_split_qkv_input(True)
    bridge.set_use_hook_mlp_in(True)
    try:
        _compare_with_hooks(context, bridge, case.exact)
    finally:
        bridge.set_use_split_qkv_input(False)
        bridge.set_use_hook_mlp_in(False)


def _compare_with_hooks(context: Context, bridge: object, exact: bool) -> None:
    config = context.model.config
    edges = [("a0.h1", Port("a1.h0", p)) for p in ("q", "k", "v")]
    if config.d_mlp is not None:
        edges += [("a0.h0", Port("m1", "in")), ("m0", Port("a1.h1", "k"))]
    swept = sweep(context, [edge(context, s, p, "zero") for s, p in edges])
    tokens, targets = context.evaluation.tokens, context.evaluation.targets

    def losses(hooks: list[object]) -> Tensor:
        with torch.no_grad():
            logits = bridge.run_with_hooks(tokens, fwd_hooks=hooks)  # type: ignore[attr-defined]
        logs = logits.double().log_softmax(-1)
        picked = logs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return -torch.where(targets >= 0, picked, 0.0).sum(1)

    clean = losses([])
    for row, (supplier, port) in zip(swept.difference, edges, strict=True):
        change, fired = changes(context, supplier, "zero"), []
        head = None if port.buyer[0] == "m" else int(port.buyer.partition("h")[2])

        def hook(x: Tensor, hook: object, change=change, head=head, fired=fired) -> Tensor:
            fired.append(x.shape)
            x = x.clone()
            if head is None:
                x += change
            else:
                x[:, :, head] += change
            return x

        site = "hook_mlp_in" if head is None else f"attn.hook_{port.port}_input"
        wanted = (losses([(f"blocks.1.{site}", hook)]) - clean)[swept.order]
        assert len(fired) == 1
        assert torch.allclose(row, wanted, atol=1e-8 if exact else 1e-4), (supplier, port)
        assert float(wanted.abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "tl-attn-only"])
def test_direct_and_mediated_and_what_they_leave(name: str) -> None:
    context = with_flows(context_of(zoo.case_named(name), ("mean", "resample")))
    table = EDGES.run(context, EdgeSettings(0, 0))["direct"]
    assert table.schema == TABLES["direct"]
    values = VALUE.run(context, ValueSettings(placebo_draws=0))["value"]
    joined = table.join(values, on=["component", "baseline"])
    assert joined.height == table.height == values.height
    total = joined["direct"] + joined["mediated"] + joined["interaction"]
    assert (total - joined["value"]).abs().max() < 1e-12  # type: ignore[operator]
    assert table.select(pl.col("interaction").abs().max()).item() > 1e-5
    # Nobody reads the last component but the logits.
    last = table.filter(pl.col("component") == table["component"][-1])
    assert last["mediated"].abs().max() == 0 and last["interaction"].abs().max() < 1e-12  # type: ignore[operator]
    clean = slow_losses(context, {})
    suppliers = pairs(Dialled(context.model))
    for component in ("a0.h0", table["component"][-2]):
        change = changes(context, component, "mean")
        row = table.filter(pl.col("component") == component, pl.col("baseline") == "mean")
        for column, wanted in {
            "direct": {Port("logits", "in"): change},
            "mediated": {p: change for s, p in suppliers if s == component and p.buyer != "logits"},
        }.items():
            sums = slow_losses(context, wanted) - clean
            mean, se = ratio_estimate(sums, (context.evaluation.targets >= 0).sum(1))
            assert row[column][0] == pytest.approx(float(mean), abs=1e-10)
            error = row["se" if column == "direct" else "mediated_se"][0]
            assert error == pytest.approx(float(se), abs=1e-10)


@pytest.mark.parametrize("plan", [Plan(1, 1), Plan(2, 3), Plan(100, 1000)], ids=str)
def test_edges_do_not_depend_on_how_the_work_is_cut(plan: Plan) -> None:
    case = zoo.case_named("llama")
    wanted = EDGES.run(with_flows(context_of(case)), ALL)
    found = EDGES.run(with_flows(context_of(case, plan=plan)), ALL)
    for name, column in (("edges", "effect"), ("direct", "mediated")):
        assert found[name].height == wanted[name].height > 0
        keys = [c for c in ("supplier", "buyer", "port", "component", "baseline") if c in
                wanted[name].columns]  # fmt: skip
        both = found[name].join(wanted[name], on=keys, suffix="_wanted")
        assert both.height == found[name].height
        assert (both[column] - both[f"{column}_wanted"]).abs().max() < 1e-11  # type: ignore[operator]


def test_only_the_layers_above_the_reader_run(monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(zoo.case_named("tl-attn-only"), ("zero",), Plan(5, 1000))
    config = context.model.config
    last = config.n_layers - 1
    variants = [
        edge(context, "a0.h0", Port(f"a{last}.h0", "k"), "zero"),
        edge(context, "a0.h0", Port("logits", "in"), "zero"),
        edge(context, "a0.h1", Port("a1.h0", "q"), "zero"),
    ]
    runs: dict[int, int] = {}
    attend = Model.attend

    def counted(self: Model, layer: int, stream: Tensor) -> Tensor:
        runs[layer] = runs.get(layer, 0) + len(stream)
        return attend(self, layer, stream)

    monkeypatch.setattr(Model, "attend", counted)
    sweep(context, variants)
    assert config.n_layers >= 2
    for layer in range(config.n_layers):
        # The clean pass; above layer 1 the edge to it as well.
        assert runs[layer] == 5 * (1 + (layer > 1)), runs


def test_the_largest_seed_draws_edges_like_any_other() -> None:
    flows = {(f"a0.h{n}", "logits", "in"): float(n) for n in range(20)}
    context = replace(context_of(zoo.case_named("gpt2")), seed=2**63 - 1, step=2**62)
    found = _chosen(flows, EdgeSettings(largest=5, drawn=7), context, 1)
    assert list(found.values()) == ["flow"] * 5 + ["drawn"] * 7


def test_what_is_chosen_and_what_it_says_of_the_rest() -> None:
    context = with_flows(context_of(zoo.case_named("qwen3"), ("mean", "zero")))
    flows = context.tables["flows"]
    found = EDGES.run(context, EdgeSettings(largest=5, drawn=7))
    merged = flows.with_columns(
        pl.col("port").str.strip_suffix("_scale"), flow=pl.col("signal") + pl.col("crowding")
    )
    merged = merged.group_by("baseline", "supplier", "buyer", "port").agg(pl.col("flow").sum())
    for baseline in ("mean", "zero"):
        every = merged.filter(pl.col("baseline") == baseline)
        here = found["edges"].filter(pl.col("baseline") == baseline)
        assert here["chosen"].to_list() == ["flow"] * 5 + ["drawn"] * 7
        top = every.sort(pl.col("flow").abs(), descending=True).head(5)
        keys = ["supplier", "buyer", "port"]
        assert here.head(5).join(top, on=keys)["flow"].len() == 5
        assert here.join(every, on=keys)["flow_right"].to_list() == pytest.approx(
            here.join(every, on=keys)["flow"].to_list(), abs=1e-15
        )
        row = found["edge_sampling"].filter(pl.col("baseline") == baseline).row(0, named=True)
        assert (row["edges"], row["largest"], row["drawn"]) == (every.height, 5, 7)
        rank = stats.spearmanr(here["flow"], here["effect"]).statistic
        assert row["rank_correlation"] == pytest.approx(rank)
        drawn = here.filter(pl.col("chosen") == "drawn")
        rank = stats.spearmanr(drawn["flow"], drawn["effect"]).statistic
        assert row["rank_correlation_drawn"] == pytest.approx(rank)
        assert row["effect"] == pytest.approx(here["effect"].sum())
        assert row["hidden"] == pytest.approx((every.height - 12) * drawn["effect"].mean())
        assert row["hidden_se"] > 0 and row["hidden_size"] >= 0
    # Other edges at other checkpoints; the same ones again.
    again = EDGES.run(context, EdgeSettings(largest=5, drawn=7))["edges"]
    assert again.equals(found["edges"])
    later = EDGES.run(replace(context, step=8), EdgeSettings(largest=5, drawn=7))["edges"]
    assert later["supplier"].to_list() != again["supplier"].to_list() or (
        later["buyer"].to_list() != again["buyer"].to_list()
    )


def test_with_everything_measured_nothing_is_hidden() -> None:
    context = with_flows(context_of(zoo.case_named("gpt2"), ("zero",)))
    row = EDGES.run(context, ALL)["edge_sampling"].row(0, named=True)
    assert row["largest"] == row["edges"] == context.tables["flows"].height
    assert (row["hidden"], row["hidden_se"], row["hidden_size"]) == (0, 0, 0)
    assert row["rank_correlation_drawn"] is None and -1 <= row["rank_correlation"] <= 1
    none = EDGES.run(context, EdgeSettings(3, 0))["edge_sampling"].row(0, named=True)
    assert (none["hidden"], none["hidden_se"], none["hidden_size"]) == (None, None, None)


def test_what_is_hidden_is_told_without_bias() -> None:
    rng = np.random.default_rng(0)
    effects = rng.lognormal(size=200) * rng.choice([-1, 1], 200, p=[0.3, 0.7])
    misses, inside = [], 0
    for _ in range(2000):
        order = rng.permutation(200)
        seen, rest = effects[order[:40]], effects[order[40:]]
        found = sampling(list(seen), [0.0] * 40, 160, 0.0)
        misses.append(found.hidden - rest.sum())
        inside += abs(misses[-1]) < 2 * found.hidden_se
        assert found.hidden_size > 0
    assert abs(np.mean(misses)) < 4 * np.std(misses) / 2000**0.5
    assert 0.88 < inside / 2000 < 0.99
    sizes = [
        sampling(list(effects[rng.permutation(200)[:40]]), [0.0] * 40, 160, 0.0).hidden_size
        for _ in range(500)
    ]
    assert np.mean(sizes) / 160 == pytest.approx(np.abs(effects).mean(), rel=0.05)
    # Pure noise has no size, up to chance.
    noise = rng.normal(size=400)
    assert sampling(list(noise), [1.0] * 400, 100, 0.0).hidden_size < 40


@pytest.mark.parametrize(
    ("largest", "drawn", "message"),
    [
        (-1, 3, "measures.edges: largest and drawn must be 0 or more, not -1 and 3"),
        (
            3,
            1,
            "measures.edges.drawn must be 0 or at least 2, not 1: a single edge does not tell how "
            "much the rest differ",
        ),
    ],
)
def test_wrong_numbers_are_refused(largest: int, drawn: int, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        EdgeSettings(largest, drawn)
    assert str(error.value) == message


def test_edges_come_with_income() -> None:
    assert [m.name for m in measures_of(["edges"])] == ["income", "edges"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "tl-attn-only"])
def test_edges_from_embeddings_are_those_of_a_copy_per_reader(name: str) -> None:
    """Every edge from ``embed`` and ``pos``, to every kind of reader, under every baseline."""
    context = with_flows(context_of(zoo.case_named(name)))
    plain = EDGES.run(context, EdgeSettings(3, 2))
    found = EDGES.run(context, EdgeSettings(3, 2, embeddings=True))
    config = context.model.config
    names = ["embed"] if config.rotary is not None else ["embed", "pos"]
    ports = list(dict.fromkeys(port for _, port in pairs(Dialled(context.model))))
    ports = [Port(f"a0.h{h}", p) for h in range(config.n_heads) for p in "qkv"] + [
        p for p in ports if not p.buyer.startswith("a0.") and not p.port.endswith("_scale")
    ]
    ports += [] if config.d_mlp is None or Port("m0", "in") in ports else [Port("m0", "in")]
    rows = found["edges"].filter(pl.col("chosen") == "embedding")
    keys = ["supplier", "buyer", "port", "baseline"]
    wanted = {(s, p.buyer, p.port, b) for s in names for p in ports for b in BASELINES}
    assert set(rows.select(keys).rows()) == wanted and rows.height == len(wanted)
    assert rows["flow"].is_null().all()
    # What flows rank, and what that says of the rest, stays as it was.
    assert found["edges"].filter(pl.col("chosen") != "embedding").equals(plain["edges"])
    assert found["edge_sampling"].equals(plain["edge_sampling"])
    assert set(found["direct"]["component"]) == {*plain["direct"]["component"], *names}
    targets = context.evaluation.targets
    clean, largest = slow_losses(context, {}), 0.0
    generator = np.random.default_rng(1)
    for at in generator.permutation(rows.height)[:12]:
        row = rows.row(int(at), named=True)
        change = changes(context, row["supplier"], row["baseline"])
        nudges = dict.fromkeys(ports_of(context, Port(row["buyer"], row["port"])), change)
        sums = slow_losses(context, nudges) - clean
        mean, se = (float(x) for x in ratio_estimate(sums, (targets >= 0).sum(1)))
        assert row["effect"] == pytest.approx(mean, abs=1e-9), row
        assert row["se"] == pytest.approx(se, abs=1e-9), row
        largest = max(largest, abs(mean))
    assert largest > 1e-3


def test_direct_and_mediated_of_an_embedding_add_to_its_value() -> None:
    context = with_flows(context_of(zoo.case_named("gpt2"), ("zero", "mean")))
    direct = EDGES.run(context, EdgeSettings(0, 0, embeddings=True))["direct"]
    values = VALUE.run(context, ValueSettings(placebo_draws=0, embeddings=True))["value"]
    joined = direct.join(values, on=["component", "baseline"])
    assert {"embed", "pos"} < set(joined["component"]) and joined.height == direct.height
    total = joined["direct"] + joined["mediated"] + joined["interaction"]
    assert (total - joined["value"]).abs().max() < 1e-12  # type: ignore[operator]
    assert direct.filter(pl.col("component") == "embed")["mediated"].abs().min() > 1e-4  # type: ignore[operator]


def test_halves_of_an_effect_are_those_of_every_other_document() -> None:
    context = with_flows(context_of(zoo.case_named("gpt2"), ("zero",)))
    rows = EDGES.run(context, EdgeSettings(6, 0))["edges"]
    evaluation = context.evaluation
    for which, name in enumerate(("first_half", "second_half")):
        half = Evaluation(
            evaluation.tokens[which::2], evaluation.targets[which::2], evaluation.reference
        )
        alone = replace(context, evaluation=half)
        wanted = EDGES.run(alone, EdgeSettings(6, 0))["edges"]
        assert rows[name].to_list() == pytest.approx(wanted["effect"].to_list(), abs=1e-12)
    # Windows of one document are in one half.
    clusters = torch.tensor([0, 0, 1, 1, 1])
    together = Evaluation(
        evaluation.tokens, evaluation.targets, evaluation.reference, clusters=clusters
    )
    found = EDGES.run(replace(context, evaluation=together), EdgeSettings(6, 0))["edges"]
    part = Evaluation(evaluation.tokens[:2], evaluation.targets[:2], evaluation.reference)
    wanted = EDGES.run(replace(context, evaluation=part), EdgeSettings(6, 0))["edges"]
    assert found["first_half"].to_list() == pytest.approx(wanted["effect"].to_list(), abs=1e-12)
