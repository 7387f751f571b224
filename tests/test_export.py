"""Every export read back by a reader that is not ours: the graph is the same."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from graph_readers import READERS, Read, as_written
from hypothesis import given, settings
from hypothesis import strategies as st
from traded import NAME, ROWS, STEPS, trading

import circuit_econ as ce
from circuit_econ.graph import Format

FORMATS = tuple(READERS)


def there_and_back(graph: nx.MultiDiGraph, format: str, folder: Path, minimum: float = 0.0) -> Read:
    name, read = READERS[format]
    files = ce.export(graph, folder / name, format, minimum)
    # Nothing temporary stays.
    assert sorted(files) == sorted(folder.iterdir())
    return read(folder / name)


def assert_same(found: Read, wanted: Read) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert set(ours) == set(theirs)
        for key, data in theirs.items():
            # DOT and CSV have no types: 2.0 may come back as 2, and numbers compare alike.
            assert ours[key] == data, key


@pytest.mark.parametrize("format", FORMATS)
def test_the_graph_comes_back_as_it_was(tmp_path: Path, format: str) -> None:
    graph = ce.composition_graph(trading(tmp_path / "run"), step=10)
    (tmp_path / "out").mkdir()
    found = there_and_back(graph, format, tmp_path / "out")
    assert len(found[1]) == len(ROWS) + 1 and found[1]["a0.h0", "a1.h0", "k"]["weight"] == 0.75
    assert_same(found, as_written(graph))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("edges", [0, 1])
def test_no_edge_and_one_edge(tmp_path: Path, format: str, edges: int) -> None:
    graph = nx.MultiDiGraph(step=1, name=NAME)
    graph.add_nodes_from(["a0.h0", "logits"], kind="head")
    if edges:
        graph.add_edge("a0.h0", "logits", "in", port="in", flow=-1.5, weight=1.5)
    assert_same(there_and_back(graph, format, tmp_path), as_written(graph))


@pytest.mark.parametrize("format", FORMATS)
def test_what_no_format_holds_is_left_out(tmp_path: Path, format: str) -> None:
    graph = nx.MultiDiGraph(step=np.int64(1), name="x\x00", loss=None, product=math.nan)
    graph.add_node("a0.h0", layer=np.int64(3), income=np.float32(0.5), head=None, sold=math.nan)
    graph.add_node("logits", income=math.inf, bought=np.float64("nan"))
    graph.add_edge("a0.h0", "logits", "in", port="in", weight=np.float64(2), flow_se=None)
    nodes, edges = there_and_back(graph, format, tmp_path)
    assert nodes == {"a0.h0": {"layer": 3, "income": 0.5}, "logits": {}}
    assert edges == {("a0.h0", "logits", "in"): {"port": "in", "weight": 2.0}}


@pytest.mark.parametrize("format", FORMATS)
def test_names_of_attributes_are_cleaned_as_values_are(tmp_path: Path, format: str) -> None:
    graph = nx.MultiDiGraph(step=1, name=NAME, **{"why\x00": "a"})
    graph.add_node("a0.h0", **{"note\x1b": "b\x00"})
    graph.add_node("logits")
    graph.add_edge("a0.h0", "logits", "in", port="in", weight=2.0, **{"kind\x08": "c\uffff"})
    nodes, edges = there_and_back(graph, format, tmp_path)
    assert nodes["a0.h0"] == {"note": "b"}
    assert edges["a0.h0", "logits", "in"] == {"port": "in", "weight": 2.0, "kind": "c"}


@pytest.mark.parametrize("format", FORMATS)
def test_a_minimum_leaves_small_edges_out_and_nodes_in(tmp_path: Path, format: str) -> None:
    graph = ce.composition_graph(trading(tmp_path / "run"), step=10)
    (tmp_path / "out").mkdir()
    nodes, edges = there_and_back(graph, format, tmp_path / "out", minimum=0.25)
    assert set(nodes) == set(graph)
    assert set(edges) == {row[:3] for row in ROWS if row[2] != "v"}


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)
AMOUNTS = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-6)
NODES = [f"a{layer}.h{head}" for layer in range(2) for head in range(3)] + ["logits"]


@st.composite
def graphs(draw: st.DrawFn) -> nx.MultiDiGraph:
    graph = nx.MultiDiGraph(step=draw(st.integers(0, 10**9)), name=draw(WORDS))
    for node in draw(st.lists(st.sampled_from(NODES), unique=True, min_size=1)):
        graph.add_node(node, layer=draw(st.integers(0, 99)))
        if draw(st.booleans()):
            graph.nodes[node]["income"] = draw(AMOUNTS)
    known = st.sampled_from(list(graph))
    for ends in draw(st.lists(st.tuples(known, known, st.sampled_from("qkv")), unique=True)):
        flow = draw(AMOUNTS)
        graph.add_edge(*ends, port=ends[2], flow=flow, weight=abs(flow))
    return graph


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=25, deadline=None)
@given(graph=graphs())
def test_any_graph_comes_back(format: str, graph: nx.MultiDiGraph) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_same(there_and_back(graph, format, Path(folder)), as_written(graph))


@pytest.mark.parametrize("text", ['say "x"', "back\\slash", "ends in \\", "a\nb", "<&>'", "ü → 経"])
def test_text_survives_in_dot_and_xml(tmp_path: Path, text: str) -> None:
    graph = nx.MultiDiGraph(step=1, name=text)
    graph.add_node("logits", kind=text)
    for format in ("dot", "graphml", "gexf"):
        nodes, _ = there_and_back(graph, format, (tmp_path / format))
        # DOT writes the end of a line as an escape, which is for its renderer to read.
        kind = text.replace("\n", "\\n") if format == "dot" else text
        assert nodes == {"logits": {"kind": kind}}, format


def test_graph_attributes_are_kept_where_the_format_has_a_place(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path / "run"), step=10)
    for format in ("graphml", "json", "cytoscape"):
        name, _ = READERS[format]
        (file,) = ce.export(graph, tmp_path / format / name, format)
        if format == "graphml":
            found: Any = nx.read_graphml(file).graph
            found = {k: v for k, v in found.items() if not k.endswith("_default")}
        else:
            content = json.loads(file.read_text(encoding="utf-8"))
            found = content["graph" if format == "json" else "data"]
        assert found == graph.graph, format
    (file,) = ce.export(graph, tmp_path / "g.gexf")
    assert nx.read_gexf(file).graph["mode"] == "static"
    assert NAME in file.read_text(encoding="utf-8")


def test_dot_shows_losses_dashed_and_large_flows_wide(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path / "run"), step=10)
    (file,) = ce.export(graph, tmp_path / "g.gv")
    lines = file.read_text(encoding="utf-8").splitlines()
    (sold,) = [x for x in lines if '"a1.h0" -> "logits"' in x]
    (lost,) = [x for x in lines if '"a0.h0" -> "a1.h0"' in x and '"key"="v"' in x]
    assert '"penwidth"="6.0"' in sold and '"style"="solid"' in sold
    assert '"penwidth"="0.75"' in lost and '"style"="dashed"' in lost
    assert '"rankdir"="BT"' in lines[1]


def test_cytoscape_ids_are_unique(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path / "run"), step=10)
    (file,) = ce.export(graph, tmp_path / "g.cyjs")
    elements = json.loads(file.read_text(encoding="utf-8"))["elements"]
    ids = [each["data"]["id"] for part in elements.values() for each in part]
    assert len(set(ids)) == len(ids) == 11


# Time.


def test_gexf_of_a_run_has_a_timeline(tmp_path: Path) -> None:
    ledger = trading(tmp_path / "run")
    graphs = [ce.composition_graph(ledger, step) for step in reversed(STEPS)]
    (file,) = ce.export(graphs, tmp_path / "g.gexf", minimum=0.5)
    text = file.read_text(encoding="utf-8")
    assert 'timeformat="double"' in text and 'mode="dynamic"' in text
    found = nx.read_gexf(file)
    assert set(found) == set(graphs[0])
    first, second = (10.0, math.nextafter(100.0, 0)), (100.0, 190.0)
    node = found.nodes["a0.h0"]
    assert (node["start"], node["end"]) == (10.0, 190.0)
    assert node["income"] == [(0.75, *first), (0.75, *second)] and node["kind"] == "head"
    edges = {data["id"]: data for *_, data in found.edges(data=True)}
    # 0.75 at step 10 and 7.5 at step 100; the others reach 0.5 late, or always, or never.
    edge = edges["a0.h0:a1.h0:k"]
    assert edge["flow"] == [(0.75, *first), (7.5, *second)] and edge["weight"] == 7.5
    assert edge["weight_now"] == edge["flow"] and edge["port"] == "k"
    assert edge["spells"] == [first, second]
    assert edges["a0.h0:a1.h0:v"]["spells"] == [second]
    assert edges["a0.h0:a1.h0:v"]["flow"] == [(-1.25, *second)]
    assert set(edges) == {":".join(row[:3]) for row in ROWS}


def test_a_timeline_of_one_step_lasts_a_step(tmp_path: Path) -> None:
    graph = ce.composition_graph(trading(tmp_path / "run"), step=10)
    (file,) = ce.export([graph], tmp_path / "g.gexf")
    assert nx.read_gexf(file).nodes["logits"]["end"] == 11.0


@pytest.mark.parametrize("format", [f for f in Format if f not in (Format.GEXF, Format.CSV)])
def test_other_formats_have_a_file_for_each_step(tmp_path: Path, format: str) -> None:
    ledger = trading(tmp_path / "run")
    graphs = [ce.composition_graph(ledger, step) for step in STEPS]
    files = ce.export(graphs, tmp_path / "all", format)
    suffix = {"eap-ig": "eap-ig.json", "neuronpedia": "neuronpedia.json"}.get(format, format)
    suffix = "cytoscape.json" if format == "cytoscape" else suffix
    assert [f.name for f in files] == [f"step-{step:010d}.{suffix}" for step in STEPS]
    (single,) = ce.export(graphs[1], tmp_path / "one", format)
    assert files[1].read_bytes() == single.read_bytes()


def test_csv_is_two_files_or_a_folder(tmp_path: Path) -> None:
    ledger = trading(tmp_path / "run")
    graphs = [ce.composition_graph(ledger, step) for step in STEPS]
    names = [f.relative_to(tmp_path).as_posix() for f in ce.export(graphs[0], tmp_path / "a.csv")]
    assert names == ["a.nodes.csv", "a.edges.csv"]
    names = [
        f.relative_to(tmp_path).as_posix() for f in ce.export(graphs[0], tmp_path / "v1.2", "csv")
    ]
    assert names == ["v1.2/nodes.csv", "v1.2/edges.csv"]
    names = [f.relative_to(tmp_path).as_posix() for f in ce.export(graphs, tmp_path / "b", "csv")]
    assert names == [
        f"b/step-{step:010d}.{part}.csv" for step in STEPS for part in ("nodes", "edges")
    ]


# What cannot be.


@pytest.mark.parametrize(
    ("path", "format", "text"),
    [
        (
            "g.json",
            None,
            "'g.json' could be several formats: cytoscape, eap-ig, neuronpedia and json are all "
            ".json; name one as format",
        ),
        (
            "g.png",
            None,
            "no format known by the suffix of 'g.png'; known are .graphml, .gexf, .cyjs, .dot, "
            ".gv, .csv; or name one of the formats: graphml, gexf, cytoscape, eap-ig, "
            "neuronpedia, dot, json, csv",
        ),
        (
            "g.gexf",
            "gefx",
            "unknown format 'gefx'; there is: graphml, gexf, cytoscape, eap-ig, neuronpedia, dot, "
            "json, csv",
        ),
    ],
)
def test_a_format_that_is_not_known(path: str, format: str | None, text: str) -> None:
    with pytest.raises(ce.ConfigurationError) as error:
        ce.export(nx.MultiDiGraph(step=1), path, format)
    assert str(error.value) == text


@pytest.mark.parametrize("minimum", [-1.0, math.nan])
def test_a_minimum_is_an_amount(tmp_path: Path, minimum: float) -> None:
    with pytest.raises(ce.ConfigurationError) as error:
        ce.export(nx.MultiDiGraph(step=1), tmp_path / "g.gexf", minimum=minimum)
    assert str(error.value) == (f"minimum is an absolute flow in nats, at least 0, not {minimum}")


@pytest.mark.parametrize("steps", [[], [1, 2, 1]])
def test_one_graph_for_each_step(tmp_path: Path, steps: list[int]) -> None:
    with pytest.raises(ce.ConfigurationError) as error:
        ce.export([nx.MultiDiGraph(step=step) for step in steps], tmp_path / "g.gexf")
    assert str(error.value) == (
        f"export takes one graph for each step, not of steps {sorted(steps)}"
    )


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = nx.MultiDiGraph(step=1)
    (file,) = ce.export(graph, tmp_path / "g.gexf")
    before = file.read_bytes()

    def half(found: nx.MultiDiGraph, path: Path) -> None:
        path.write_text("<gexf", encoding="utf-8")
        raise OSError("disk full")

    monkeypatch.setattr("networkx.write_gexf", half)
    with pytest.raises(ce.ConfigurationError, match="disk full"):
        ce.export(graph, file)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
