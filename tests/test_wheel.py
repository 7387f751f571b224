"""The built wheel, installed elsewhere, does the main job from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_walks_from_an_empty_folder(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(tmp_path / "dist"), str(ROOT)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {
            "circuit_econ/conf/config.yaml",
            "circuit_econ/conf/study/quickstart.yaml",
            "circuit_econ/py.typed",
            "circuit_econ/report/assets/page.html",
        } <= names
        assert not any(name.startswith(("tests/", "conf/")) for name in names)
        archive.extractall(tmp_path / "site")
    empty = tmp_path / "empty"
    empty.mkdir()
    code = (
        "import sys; from pathlib import Path; import circuit_econ.cli; "
        "from circuit_econ.places import config_folder; "
        f"site = Path({str(tmp_path / 'site')!r}); "
        "assert Path(circuit_econ.__file__).is_relative_to(site), circuit_econ.__file__; "
        "assert config_folder().is_relative_to(site), config_folder(); "
        "sys.exit(circuit_econ.cli.main(['walk', 'trajectory.training.steps=2', "
        "'trajectory.training.warmup=0', 'trajectory.training.checkpoints=2', "
        "'trajectory.training.d_model=8', 'trajectory.training.n_heads=2', "
        "'evaluation.sequences=4', 'evaluation.reference_sequences=4', 'evaluation.length=16']))"
    )
    done = subprocess.run(
        # -P keeps the checkout's folder off the path; the wheel comes before what is installed.
        [sys.executable, "-P", "-c", code],
        cwd=empty, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (empty / "runs/quickstart/report.html").stat().st_size > 500_000
    assert (empty / "runs/quickstart/ledger/value").is_dir()
