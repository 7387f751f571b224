"""``circuit-econ export`` as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest
from traded import trading

from circuit_econ.cli import main
from circuit_econ.graph import Format


def run(*arguments: str | Path) -> int:
    return main(["export", *map(str, arguments)])


@pytest.mark.parametrize("format", Format)
def test_every_format_has_a_default_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format: Format
) -> None:
    trading(tmp_path)
    assert run(tmp_path, "--format", format) == 0
    names = {
        "cytoscape": ["graph-100.cytoscape.json"],
        "eap-ig": ["graph-100.eap-ig.json"],
        "neuronpedia": ["graph-100.neuronpedia.json"],
        "csv": ["graph-100.nodes.csv", "graph-100.edges.csv"],
    }.get(format, [f"graph-100.{format}"])
    out = capsys.readouterr().out
    assert out.splitlines() == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).stat().st_size for name in names)


def test_a_step_a_baseline_and_a_minimum_are_chosen(tmp_path: Path) -> None:
    trading(tmp_path / "run", baselines=("mean", "zero"))
    out = tmp_path / "x.graphml"
    options = ("--step", "10", "--baseline", "zero", "--minimum", "1.9", "--output", out)
    assert run(tmp_path / "run", *options) == 0
    found = nx.read_graphml(out)
    assert found.graph["step"] == 10 and found.graph["baseline"] == "zero"
    assert {data["flow"] for *_, data in found.edges(data=True)} == {2.0}


def test_all_steps_are_a_timeline_or_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trading(tmp_path)
    assert run(tmp_path, "--format", "gexf", "--step", "all") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'graph-all.gexf'}\n"
    assert nx.read_gexf(tmp_path / "graph-all.gexf").graph["mode"] == "dynamic"
    assert run(tmp_path, "--format", "eap-ig", "--step", "all") == 0
    assert sorted(p.name for p in (tmp_path / "graph-all-eap-ig").iterdir()) == [
        "step-0000000010.eap-ig.json",
        "step-0000000100.eap-ig.json",
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            (),
            "name a --format, or an --output whose suffix says it; see circuit-econ export --help",
        ),
        (
            ("--format", "gefx"),
            "unknown format 'gefx'; there is: graphml, gexf, cytoscape, eap-ig, neuronpedia, dot, "
            "json, csv",
        ),
        (
            ("--format", "dot", "--step", "first"),
            "--step is a number, last or all, not 'first'; see circuit-econ export --help",
        ),
        (("--format", "dot", "--step", "11"), "unknown step '11'; there is: 10, 100"),
        (
            ("--format", "dot", "--baseline", "zero"),
            "unknown baseline 'zero'; there is: mean",
        ),
    ],
)
def test_wrong_usage_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], text: str
) -> None:
    trading(tmp_path)
    assert run(tmp_path, *options) == 2
    assert capsys.readouterr().err == f"circuit-econ: {text}\n"
    assert not list(tmp_path.glob("graph*"))


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    trading(tmp_path)
    code = (
        "import sys; from circuit_econ.cli import main; "
        f"code = main(['export', {str(tmp_path)!r}, '--format', 'gexf', '--step', 'all']); "
        "heavy = {'torch', 'transformer_lens', 'hydra', 'altair'} & set(sys.modules); "
        "assert code == 0 and not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_run_without_flows_says_what_to_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trading(tmp_path, tables=("value",))
    assert run(tmp_path, "--format", "dot") == 2
    assert "walk again with measure=[income]" in capsys.readouterr().err
