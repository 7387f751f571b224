"""Training that is killed goes on, and ends bit for bit like one that was not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from small_runs import SMALL, Killed, files_of, interrupt, small_config, small_data

from circuit_econ.errors import ConfigurationError
from circuit_econ.training import Optimiser, Schedule, loop, train


@pytest.mark.parametrize("optimiser", Optimiser)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: Optimiser
) -> None:
    monkeypatch.setattr(loop, "_RESUME_EVERY", 4)
    config = small_config(
        optimiser=optimiser, schedule=Schedule.cosine, checkpoint_steps=[0, 3, 9, 12]
    )
    whole = files_of(train(config, small_data(), tmp_path / "whole"))
    begun: list[int] = []
    for stop in (1, 2, 4, 6, 10, 11, 12):
        first: list[int] = []

        def progress(
            step: int, total: int, loss: float, stop: int = stop, first: list[int] = first
        ) -> None:
            assert total == 12 and loss > 0
            first.append(step)
            if step >= stop:
                raise Killed

        with pytest.raises(Killed):
            train(config, small_data(), tmp_path / "broken", progress=progress)
        begun.append(first[0])
    # Each attempt goes on from the last resume file: of steps 3, 4 and 9.
    assert begun == [1, 1, 1, 4, 5, 10, 10]
    assert "resume.pt" in files_of(tmp_path / "broken")
    assert files_of(train(config, small_data(), tmp_path / "broken")) == whole
    assert "resume.pt" not in whole


def test_a_write_that_breaks_off_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop at every single write of the run, with half of the file written."""
    whole = files_of(train(SMALL, small_data(), tmp_path / "whole"))
    write, broken = Path.write_bytes, tmp_path / "broken"
    for stop in range(1, 1000):
        count = 0

        def half(path: Path, content: bytes, stop: int = stop) -> int:
            nonlocal count
            count += 1
            if count == stop:
                write(path, content[: len(content) // 2])
                raise Killed
            return write(path, content)

        monkeypatch.setattr(Path, "write_bytes", half)
        try:
            train(SMALL, small_data(), broken)
        except Killed:
            for file in broken.glob("step_*.safetensors"):
                assert file.read_bytes() == whole[file.name]
            if stop % 3:
                continue  # sometimes the next attempt starts from an empty folder
            for file in list(broken.iterdir()):
                file.unlink()
            continue
        break
    monkeypatch.setattr(Path, "write_bytes", write)
    assert files_of(broken) == whole
    assert {f.name for f in broken.iterdir() if f.name.startswith(".")} <= {".lock"}


def test_sigkill_in_the_middle_of_a_write(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        import torch
        torch.set_num_threads(int(sys.argv[2]))
        from circuit_econ.evaluation import training_data
        from circuit_econ.training import TrainingConfig, train
        write, writes = Path.write_bytes, []
        def killing(path, content):
            writes.append(path)
            if len(writes) == 12:
                write(path, content[:100])
                os.kill(os.getpid(), signal.SIGKILL)
            return write(path, content)
        Path.write_bytes = killing
        config = TrainingConfig(
            n_layers=1, n_heads=2, d_model=16, steps=12, batch=4, warmup=3, checkpoints=5
        )
        train(config, training_data("embedded", {"length": 16}, 4, 0), sys.argv[1])
        """
    )
    folder = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(torch.get_num_threads())],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert {"step_5.safetensors", "resume.pt"} < set(files_of(folder))
    assert "step_12.safetensors" not in files_of(folder) and (folder / ".resume.pt").exists()
    whole = train(SMALL, small_data(), tmp_path / "whole")
    assert files_of(train(SMALL, small_data(), folder)) == files_of(whole)


def test_a_damaged_resume_file_says_what_to_do(tmp_path: Path) -> None:
    interrupt(tmp_path, 7)
    path = tmp_path / "resume.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigurationError) as error:
        train(SMALL, small_data(), tmp_path)
    assert re.fullmatch(
        re.escape(str(path)) + r" is damaged; delete it to train again from step 0 \(\w+: .*\)",
        str(error.value),
    )
