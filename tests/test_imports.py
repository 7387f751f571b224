"""The import directions of the house: nothing flows back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

LINT = "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # Its colours and its cache are not ours to test.
        [sys.executable, "-W", "ignore", "-c", LINT, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_module_keeps_to_its_floor() -> None:
    done = lint(CHECKOUT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("model/source.py", "from circuit_econ.evaluation import Evaluation", "floors"),
        ("evaluation/parts.py", "import circuit_econ.model", "floors"),
        ("ledger/store.py", "import circuit_econ.pipeline", "floors"),
        ("trajectory/files.py", "import circuit_econ.training", "floors"),
        ("new.py", "import torch", "floors"),
        ("trajectory/steps.py", "import circuit_econ.evaluation", "trajectory knows the model"),
        ("ledger/store.py", "import torch", "ledger knows tables alone"),
        ("accounts/returns.py", "import circuit_econ.model", "accounts and report read ledgers"),
        ("report/theme.py", "def late():\n    import torch", "accounts and report read ledgers"),
    ],
)
def test_a_module_that_reaches_up_is_named(
    tmp_path: Path, module: str, line: str, contract: str
) -> None:
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    shutil.copytree(CHECKOUT / "circuit_econ", tmp_path / "circuit_econ")
    file = tmp_path / "circuit_econ" / module
    file.write_text((file.read_text() if file.exists() else "") + f"\n\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    broken = [text for text in done.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(text.startswith(contract) for text in broken), done.stdout
    assert module.removesuffix(".py").split("/")[-1] in done.stdout
