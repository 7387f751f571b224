"""The built wheel: what it holds, and that it walks where nothing of the checkout is in sight."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


def call(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        arguments,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation: what builds it is among the packages that the tests need.
    call(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--disable-pip-version-check", "--wheel-dir", str(folder), str(CHECKOUT), folder=folder,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    call(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
        "--disable-pip-version-check", "--target", str(folder), str(wheel), folder=folder,
    )  # fmt: skip
    # Whoever else lays a folder of that name beside the package is not asked.
    (folder / "conf").mkdir()
    (folder / "conf/config.yaml").write_text("study: somebody else's\n")
    return folder


def test_the_wheel_holds_the_package_its_values_and_nothing_else(wheel: Path) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if not n.endswith("/")}
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and {t for t in tops if not t.endswith(".dist-info")} == {"circuit_econ"}
    held = {n for n in names if n.startswith("circuit_econ/")}
    package = CHECKOUT / "circuit_econ"
    expected = {
        f"circuit_econ/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and path.suffix in (".py", ".typed", ".html", ".js", ".css")
    } | {
        f"circuit_econ/conf/{path.relative_to(CHECKOUT / 'conf').as_posix()}"
        for path in (CHECKOUT / "conf").rglob("*.yaml")
    }
    assert held == expected
    assert {"circuit_econ/py.typed", "circuit_econ/conf/study/quickstart.yaml"} <= held
    assert any(n.endswith("/licenses/LICENSE") for n in names)


def test_the_installed_wheel_walks_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    # An editable install would come first if the folder did not: the process checks where it is.
    code = f"""
import sys
from pathlib import Path
import circuit_econ
from circuit_econ.cli import main
from circuit_econ.places import config_folder
home = Path({str(installed)!r}).resolve()
assert home in Path(circuit_econ.__file__).resolve().parents, circuit_econ.__file__
assert home in config_folder().resolve().parents, config_folder()
sys.exit(main(sys.argv[1:]))
"""
    training = ("n_layers=1", "n_heads=2", "d_model=8", "steps=3", "warmup=0", "checkpoints=3",
                "batch=2")  # fmt: skip
    done = call(
        sys.executable, "-P", "-c", code, "walk", "study=quickstart", "device=cpu",
        "evaluation.length=12", "evaluation.sequences=3", "evaluation.reference_sequences=3",
        *(f"trajectory.training.{setting}" for setting in training),
        folder=tmp_path, PYTHONPATH=str(installed),
    )  # fmt: skip
    assert "page: " in done.stdout and "3 checkpoints, 3 to measure" in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}
    assert (tmp_path / "runs/quickstart/report.html").is_file()
    assert len(list((tmp_path / "runs/quickstart/ledger/value").iterdir())) == 3


def test_the_installed_command_and_module_answer(installed: Path, tmp_path: Path) -> None:
    (script,) = (installed / "bin").glob("circuit-econ*")
    help_ = call(str(script), "walk", "--help", folder=tmp_path, PYTHONPATH=str(installed))
    assert "quickstart" in help_.stdout
    version = call(
        sys.executable, "-P", "-m", "circuit_econ", "--version",
        folder=tmp_path, PYTHONPATH=str(installed),
    )  # fmt: skip
    assert f"circuit_econ-{version.stdout.strip()}.dist-info" in {
        path.name for path in installed.iterdir()
    }
