"""Circuits as a measure: found in real models, absent from untrained ones, valued by ablation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import paper
import polars as pl
import pytest
import torch
from commands import SAVED, SMALL, STEPS, TEXT, Terminal

import circuit_econ as ce
from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import MEASURES, Context
from circuit_econ.measures.circuits import CIRCUITS, CircuitSettings
from circuit_econ.measures.edges import EDGES, EdgeSettings
from circuit_econ.measures.income import INCOME, IncomeSettings
from circuit_econ.measures.untrained_flows import largest_of_untrained, plain_flows
from circuit_econ.measures.value import VALUE, ValueSettings
from circuit_econ.model import Format, Model, Source
from circuit_econ.model.untrained import Untrained, untrained
from circuit_econ.tables import TABLES, set_name

SHAPE = {
    "n_layers": 2, "n_heads": 4, "d_model": 32, "d_head": 8, "n_ctx": 24, "d_vocab": 20,
    "attn_only": True, "normalization_type": "LN",
}  # fmt: skip
FAST = IncomeSettings(stages=False, reference_groups=0)


def load(source: Source) -> Model:
    return Model.from_source(source, torch.float64)


def drawn(config: dict[str, Any] = SHAPE) -> Untrained:
    return Untrained(Format.TRANSFORMER_LENS, config, load)


def data(seed: int = 0, sequences: int = 16) -> Evaluation:
    """Random sequences that repeat."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(20, (sequences, 12), generator=generator)
    return Evaluation(torch.cat([first, first], 1))


def context_of(model: Model, evaluation: Evaluation, config: dict[str, Any]) -> Context:
    context = Context(model, evaluation, 3, ("zero", "mean"))
    context.tables = dict(INCOME.run(context, FAST))
    context.untrained = drawn(config)
    return context


@pytest.fixture(scope="module")
def exact() -> Context:
    """The induction circuit that is worked out on paper."""
    model = paper.induction()
    c = model.config
    fields = {
        "n_layers": 2, "n_heads": 2, "d_model": c.d_model, "d_head": c.d_head, "n_ctx": c.n_ctx,
        "d_vocab": c.d_vocab, "attn_only": True, "normalization_type": None,
    }  # fmt: skip
    tokens, targets = paper.repeated(6)
    return context_of(model, Evaluation(tokens, targets), fields)


@pytest.fixture(scope="module")
def found(exact: Context) -> dict[str, pl.DataFrame]:
    return dict(CIRCUITS.run(exact, CircuitSettings(untrained=6)))


def test_the_exact_induction_circuit_is_found(found: dict[str, pl.DataFrame]) -> None:
    circuits = found["circuits"]
    assert circuits.select("step", "circuit", "component", "membership").rows() == [
        (3, "c1", "a0.h0", 1.0),
        (3, "c1", "a1.h0", 1.0),
    ]
    assert circuits["role"].n_unique() == 2
    counted = found["counted"].select("supplier", "buyer", "port", "circuit").sort("supplier")
    assert counted.rows() == [
        ("a0.h0", "a1.h0", "k", "c1"),
        ("a1.h0", "logits", "in", None),
    ]
    assert (found["counted"]["flow"] > found["counted"]["bound"]).all()
    assert {name: frame.schema for name, frame in found.items()} == {
        name: TABLES[name] for name in CIRCUITS.tables
    }


@pytest.fixture(scope="module")
def compiled() -> Context:
    """A program of five edges, with flows and with the effects of all edges."""
    model = paper.program()
    c = model.config
    fields = {
        "n_layers": 2, "n_heads": 2, "d_model": c.d_model, "d_head": c.d_head, "n_ctx": c.n_ctx,
        "d_vocab": c.d_vocab, "d_mlp": c.d_mlp, "act_fn": "relu", "normalization_type": None,
    }  # fmt: skip
    tokens, targets = paper.answers(12)
    context = Context(model, Evaluation(tokens, targets), 3, ("mean", "resample"))
    income = IncomeSettings(nodes=16, most_nodes=32, stages=False, reference_groups=0)
    context.tables = dict(INCOME.run(context, income))
    context.tables |= EDGES.run(context, EdgeSettings())
    context.untrained = drawn(fields)
    return context


@pytest.mark.parametrize("baseline", ["mean", "resample"])
def test_exact_effects_find_the_edges_of_a_program_that_flows_miss(
    compiled: Context, baseline: str, tmp_path: Path
) -> None:
    settings = CircuitSettings(baseline=baseline, untrained=5, most_pairs=0)
    compiled.cache = tmp_path
    flows = {name: rows for name, rows in compiled.tables.items() if name != "edges"}
    alone = CIRCUITS.run(replace(compiled, tables=flows), settings)
    exact = CIRCUITS.run(compiled, settings)

    def edges(found: Any) -> dict[tuple[str, ...], str]:
        rows = found["counted"].select("supplier", "buyer", "port", "admitted_by").rows()
        return {row[:3]: row[3] for row in rows}

    # Silent until it is turned up halfway, it has by then long known where to look.
    assert set(edges(alone)) < paper.PROGRAM and len(edges(alone)) <= 3
    assert set(edges(alone).values()) == {"flow"}
    assert set(edges(exact)) == paper.PROGRAM
    where = edges(exact)["m0", "a1.h0", "k"], edges(exact)["a0.h0", "m0", "in"]
    assert where == ("effect", "effect") and "both" in edges(exact).values()
    assert "m0" not in alone["circuits"]["component"]
    # One circuit, without the idle heads, in both halves of the data.
    assert exact["circuits"].select("circuit", "component").rows() == [
        ("c1", "a0.h0"), ("c1", "m0"), ("c1", "a1.h0"), ("c1", "m1"),
    ]  # fmt: skip
    assert exact["circuits"]["role"].n_unique() == 4
    assert exact["circuit_agreement"].row(0)[1:] == (1, 1, 1, 4, 1.0)
    row = exact["counting"].row(0, named=True)
    assert (row["by_effect"], row["baseline"], row["sequences"]) == (5, baseline, 12)
    assert row["by_flow"] == sum(why == "both" for why in edges(exact).values()) < 4
    assert len(list(tmp_path.glob("*.json"))) == 2
    # What untrained models reach in effects is that of a larger cut, too.
    source = compiled.untrained
    assert source is not None
    few, every = (
        largest_of_untrained(replace(compiled, cache=None), source, baseline, 1, cut=cut)
        for cut in (8, 1000)
    )
    assert few["class"].to_list() == ["capital effect", "final effect"]
    assert few["largest"].to_list() == pytest.approx(every["largest"].to_list(), rel=0.01)


def test_heads_that_need_each_other_have_negative_redundancy(
    found: dict[str, pl.DataFrame],
) -> None:
    values = found["circuit_values"].filter(pl.col("baseline") == "zero").row(0, named=True)
    assert values["value"] == pytest.approx(math.log(7), abs=1e-9)
    # Without the first the second attends everywhere, and is sure of the wrong answer.
    assert values["singles"] > 2 * math.log(7)
    assert values["redundancy"] == pytest.approx(math.log(7) - values["singles"], abs=1e-9)
    pairs = found["circuit_pairs"].filter(pl.col("baseline") == "zero")
    assert pairs.select("first", "second").rows() == [("a0.h0", "a1.h0")]
    assert pairs["redundancy"][0] == pytest.approx(values["redundancy"], abs=1e-12)


def test_halves_of_the_data_agree(found: dict[str, pl.DataFrame]) -> None:
    row = found["circuit_agreement"].row(0, named=True)
    assert row == {
        "step": 3, "circuits": 1, "first_half": 1, "second_half": 1, "components": 2,
        "adjusted_rand": 1.0,
    }  # fmt: skip


def test_values_are_those_of_the_value_measure(exact: Context) -> None:
    """Joint, single and paired values, on a model in which all of them differ."""
    model = load(untrained(Format.TRANSFORMER_LENS, {**SHAPE, "initializer_range": 0.8}, 4))
    evaluation = Evaluation(data(1).tokens, reference=data(2).tokens)
    context = context_of(model, evaluation, SHAPE)
    # Whatever flows: as if they were known well enough to count.
    known_well = pl.col("se", "integration_error") / 10
    context.tables = {**context.tables, "flows": context.tables["flows"].with_columns(known_well)}
    found = CIRCUITS.run(context, CircuitSettings(untrained=5))
    values, pairs = found["circuit_values"], found["circuit_pairs"]
    members = found["circuits"].group_by("circuit", maintain_order=True).agg("component")
    sets = [names for names in members["component"].to_list() if len(names) > 1]
    two = pairs.select("first", "second").unique(maintain_order=True).rows()
    settings = ValueSettings(
        sets=[list(s) for s in {tuple(x) for x in [*sets, *two]}], placebo_draws=0
    )
    value = VALUE.run(context, settings)["value"]
    known = {(c, b): (v, se) for c, b, v, se in value.select(
        "component", "baseline", "value", "se").iter_rows()}  # fmt: skip
    assert values.height >= 2 and pairs.height >= 2
    for circuit, names in members.iter_rows():
        for baseline in ("zero", "mean"):
            row = values.filter(pl.col("circuit") == circuit, pl.col("baseline") == baseline).row(
                0, named=True
            )
            joint, se = known[set_name(names), baseline]
            singles = sum(known[name, baseline][0] for name in names)
            assert row["value"] == pytest.approx(joint, abs=1e-12) and joint != 0
            assert row["se"] == pytest.approx(se, abs=1e-12)
            assert row["singles"] == pytest.approx(singles, abs=1e-12)
            assert row["redundancy"] == pytest.approx(joint - singles, abs=1e-12)
            assert row["redundancy_se"] > 0
    for row in pairs.iter_rows(named=True):
        both = known[set_name([row["first"], row["second"]]), row["baseline"]][0]
        alone = sum(known[row[end], row["baseline"]][0] for end in ("first", "second"))
        assert row["value"] == pytest.approx(both, abs=1e-12)
        assert row["redundancy"] == pytest.approx(both - alone, abs=1e-12)


def test_untrained_models_have_no_circuits(tmp_path: Path) -> None:
    evaluation, with_circuits, by_effect = data(sequences=8), 0, 0
    for seed in range(20):
        model = load(untrained(Format.TRANSFORMER_LENS, SHAPE, seed))
        context = context_of(model, evaluation, SHAPE)
        context.cache = tmp_path
        found = CIRCUITS.run(context, CircuitSettings())
        with_circuits += found["circuit_agreement"]["circuits"][0] > 0
        assert found["circuits"].is_empty() or with_circuits
        # Nor where effects may admit edges as well.
        context.baselines = ("zero",)
        flows = {name: rows.filter(pl.col("baseline") == "zero") for name, rows in
                 context.tables.items()}  # fmt: skip
        context.tables = {**flows, **EDGES.run(replace(context, tables=flows), EdgeSettings(16, 0))}
        exact = CIRCUITS.run(context, CircuitSettings(most_pairs=0))
        by_effect += exact["circuit_agreement"]["circuits"][0] > 0
        assert context.tables["edges"].height == 16
        assert float(context.tables["flows"]["signal"].abs().max()) > 0  # type: ignore[arg-type]
    assert with_circuits <= 1 and by_effect <= 1
    assert len(list(tmp_path.glob("*.json"))) == 2  # what untrained models reach in either


def test_untrained_models_are_measured_once_and_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[int] = []

    class Counting(Untrained):
        def __call__(self, seed: int) -> Model:
            models.append(seed)
            if len(models) == 4:
                raise KeyboardInterrupt
            return super().__call__(seed)

    source = Counting(Format.TRANSFORMER_LENS, SHAPE, load)
    context = Context(source(1), data(sequences=4), cache=tmp_path / "kept")
    models.clear()
    with pytest.raises(KeyboardInterrupt):
        largest_of_untrained(context, source, "zero", 5)
    found = largest_of_untrained(context, source, "zero", 5)
    assert len(models) == 6 and len(set(models)) == 5
    assert found["seed"].n_unique() == 5
    # Another seed of the configuration is the same shape; a larger model is not.
    again = Untrained(Format.TRANSFORMER_LENS, {**SHAPE, "seed": 7}, load)
    assert largest_of_untrained(context, again, "zero", 5).equals(found)
    assert len(models) == 6
    assert drawn({**SHAPE, "d_model": 40}).digest != again.digest
    without = replace(context, cache=None)
    assert largest_of_untrained(without, again, "zero", 5).equals(found)


def test_a_cache_that_is_damaged_or_cannot_be_written_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Untrained(Format.TRANSFORMER_LENS, SHAPE, load)
    context = Context(source(1), data(sequences=2), cache=tmp_path / "kept")
    found = largest_of_untrained(context, source, "zero", 1)
    (file,) = (tmp_path / "kept").glob("*.json")
    whole = file.read_text()
    assert largest_of_untrained(context, source, "zero", 1).equals(found)
    changed = whole.replace("0.", "1.", 1)
    for content in ("{", "[]", changed, '{"digest": 3, "rows": 3}'):
        caplog.clear()
        file.write_text(content)
        assert largest_of_untrained(context, source, "zero", 1).equals(found)
        assert "is damaged" in caplog.text and "measured again" in caplog.text
        assert file.read_text() == whole
    file.unlink()
    file.mkdir()  # neither read nor written
    (tmp_path / "file").write_text("in the way")
    for cache in (tmp_path / "kept", tmp_path / "file"):
        caplog.clear()
        context.cache = cache
        assert largest_of_untrained(context, source, "zero", 1).equals(found)
        assert "untrained models are measured without being kept" in caplog.text


def test_a_new_model_is_that_of_its_library_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    config = {
        "model_type": "gpt_neox", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 11,
        "max_position_embeddings": 8, "initializer_range": 0.5,
    }  # fmt: skip
    one, two = (untrained(Format.HUGGING_FACE, config, seed) for seed in (1, 2))
    assert torch.random.get_rng_state().equal(before)
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    assert not one.tensors[name].equal(two.tensors[name])
    assert float(one.tensors[name].std()) == pytest.approx(0.5, rel=0.2)
    assert load(one).config.n_layers == 1
    again = untrained(Format.HUGGING_FACE, config, 1)
    assert again.tensors[name].equal(one.tensors[name])


def test_flows_of_fixed_nodes_are_those_of_income() -> None:
    model = load(untrained(Format.TRANSFORMER_LENS, {**SHAPE, "initializer_range": 0.8}, 4))
    context = Context(model, data(sequences=4), baselines=("mean",))
    income = INCOME.run(context, replace(FAST, nodes=9, most_nodes=9))["flows"]
    plain = plain_flows(context, "mean")
    joined = income.join(plain, on=["supplier", "buyer", "port"], suffix="_plain")
    assert joined.height == income.height == plain.height > 0
    for name in ("signal", "crowding"):
        assert (joined[name] - joined[f"{name}_plain"]).abs().max() < 1e-15  # type: ignore[operator]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"baseline": "median"},
            "unknown baseline of measures.circuits 'median'; there is: mean, mean-position, zero, "
            "resample",
        ),
        (
            {"untrained": 4},
            "measures.circuits.untrained must be at least 5 for a bound on what untrained models "
            "reach, not 4",
        ),
        ({"alike": 0.0}, "measures.circuits.alike must be above 0 and at most 1, not 0.0"),
        ({"factor": 1.0}, "measures.circuits.factor must be above 1, not 1.0"),
        ({"overlap": 1.5}, "measures.circuits.overlap must be above 0 and at most 1, not 1.5"),
        ({"most_pairs": -1}, "measures.circuits.most_pairs must be 0 or more, not -1"),
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        CircuitSettings(**fields)
    assert str(error.value) == message


def test_a_baseline_that_was_not_measured_is_named(exact: Context) -> None:
    with pytest.raises(ConfigurationError) as error:
        CIRCUITS.run(exact, CircuitSettings(baseline="resample"))
    assert str(error.value) == (
        "unknown baseline of measures.circuits 'resample'; there is: zero, mean"
    )


def test_where_no_edge_counts_it_is_said_what_would_make_one_count(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A model between trained and not: on few sequences nothing is certain, on all of them is."""
    few = context_of(paper.induction(), Evaluation(*paper.repeated(6)), SHAPE)
    noisy = few.tables["flows"].with_columns(se=pl.lit(0.5))
    context = replace(few, tables={**few.tables, "flows": noisy}, cache=tmp_path)
    context.untrained = drawn({
        "n_layers": 2, "n_heads": 2, "d_model": 32, "d_head": 11, "n_ctx": 11, "d_vocab": 7,
        "attn_only": True, "normalization_type": None,
    })  # fmt: skip
    found = CIRCUITS.run(context, CircuitSettings(untrained=5, most_pairs=0))
    row = found["counting"].row(0, named=True)
    assert found["counted"].is_empty() and row["by_flow"] == 0
    assert row["fewest"] is not None and row["fewest"] > row["sequences"] == 6
    assert (
        f"step 3: no edge counts with 6 sequences; about {row['fewest']} would make one count"
        in caplog.text
    )
    # With errors that so many sequences have, one does.
    smaller = noisy.with_columns(se=0.5 * pl.lit(row["sequences"] / row["fewest"]).sqrt() * 0.999)
    context.tables = {**few.tables, "flows": smaller}
    assert CIRCUITS.run(context, CircuitSettings(untrained=5, most_pairs=0))["counted"].height


def test_circuits_come_with_income() -> None:
    from circuit_econ.measures import measures_of

    assert [m.name for m in measures_of(["circuits"])] == ["income", "circuits"]
    assert MEASURES["circuits"] is CIRCUITS


def test_a_walk_follows_circuits_and_measures_untrained_models_once(
    run: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = Untrained.__call__
    monkeypatch.setattr(Untrained, "__call__", lambda s, n: asked.append(n) or plain(s, n))
    quick = (
        "measures.income.stages=false", "measures.income.most_nodes=9",
        "measures.circuits.untrained=5", "device=cpu",
    )  # fmt: skip
    walk = ("walk", *SAVED, *TEXT, *SMALL, *quick, "measure=[circuits]", "study=own")
    assert run(*walk, "out=runs/one").code == 0
    ledger = ce.open_ledger("runs/one")
    for table in (*CIRCUITS.tables, "circuit_events"):
        assert ledger.steps(table) == list(STEPS), table
    assert len(asked) == len(set(asked)) == 5
    assert (run.folder / "runs" / ".untrained").is_dir()
    # Another run of the same shape and data, and the same run again, ask for none.
    assert run(*walk, "out=runs/two").code == 0
    assert run(*walk, "out=runs/one").code == 0
    assert len(asked) == 5
    two = ce.open_ledger("runs/two")
    events = ledger.table("circuit_events").collect()
    assert set(events["baseline"]) <= {"mean"}
    assert two.table("counted").collect().equals(ledger.table("counted").collect())
    # Circuits can be added to a ledger that has incomes.
    assert run(*walk[:-2], "measure=[income]", "study=own", "out=runs/three").code == 0
    assert run(*walk, "out=runs/three").code == 0
    three = ce.open_ledger("runs/three")
    assert three.table("counted").collect().equals(ledger.table("counted").collect())


def test_a_walk_with_edges_counts_effects_and_exports_the_embeddings(run: Terminal) -> None:
    quick = (
        "measures.income.stages=false", "measures.income.most_nodes=9",
        "measures.circuits.untrained=5", "measures.edges.embeddings=true",
        "measures.edges.largest=100", "measures.edges.drawn=0", "device=cpu",
    )  # fmt: skip
    last = f"trajectory.steps=[{STEPS[-1]}]"
    walk = ("walk", *SAVED, *TEXT, *SMALL, *quick, "measure=[edges,circuits]", "study=own", last)
    assert run(*walk, "out=runs/one").code == 0
    ledger = ce.open_ledger("runs/one")
    counted, edges = (ledger.table(name).collect() for name in ("counted", "edges"))
    counting = ledger.table("counting").collect().row(0, named=True)
    by = counted["admitted_by"]
    assert counting["by_effect"] == (by != "flow").sum()
    assert counting["by_flow"] == (by != "effect").sum()
    embedded = edges.filter(pl.col("chosen") == "embedding")
    assert set(embedded["supplier"]) >= {"embed"} and embedded["flow"].is_null().all()
    assert run("export", "runs/one", "--format", "eap-ig", "--output", "graph.json").code == 0
    graph = json.loads((run.folder / "graph.json").read_text(encoding="utf-8"))
    from_input = {name for name in graph["edges"] if name.startswith("input->")}
    buyers = embedded.filter(pl.col("supplier") == "embed").select("buyer", "port").rows()
    assert from_input == {
        f"input->{buyer}<{port}>" if buyer[0] == "a" else f"input->{buyer}"
        for buyer, port in buyers
    }
    first = embedded.filter(pl.col("buyer") == "a0.h0", pl.col("port") == "v")["effect"].sum()
    assert graph["edges"]["input->a0.h0<v>"]["score"] == pytest.approx(first)
