"""What the documents print can be typed: commands compose, and code names what there is."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import circuit_econ as ce
from circuit_econ.cli import main
from circuit_econ.composing import Request, compose

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    """Every block of code in that language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [block for page in PAGES for block in pattern.findall(page.read_text(encoding="utf-8"))]


def commands() -> list[list[str]]:
    """Every command of ours, in the words that a shell makes of it."""
    lines = (line for b in blocks("sh") for line in b.replace("\\\n", " ").splitlines())
    words = (shlex.split(line, comments=True) for line in lines)
    return [w[1:] for w in words if w and w[0] == "circuit-econ"]


def test_commands_compose_as_they_are_printed() -> None:
    walks = [c for c in commands() if c[0] in ("walk", "plan")]
    assert len(walks) >= 6
    for verb, *rest in walks:
        overrides = tuple(word for word in rest if not word.startswith("-"))
        assert compose(Request(overrides, "-m" in rest)), (verb, rest)


def test_verbs_and_their_options_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    helps: dict[str, str] = {}
    for verb, *rest in (c for c in commands() if not c[0].startswith("-")):
        if verb not in helps:
            try:
                assert main([verb, "--help"]) == 0
            except SystemExit as end:
                assert end.code == 0
            helps[verb] = capsys.readouterr().out
        for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
            assert option in helps[verb], (verb, option)
    assert {"walk", "audit", "report", "export"} <= set(helps)


def test_code_names_what_there_is() -> None:
    found = blocks("python")
    assert len(found) >= 4
    for block in found:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "ce" or hasattr(ce, node.attr), node.attr
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("circuit_econ"):
                module = __import__(str(node.module), fromlist=["_"])
                assert all(hasattr(module, alias.name) for alias in node.names), block
