"""The audit of runs on disk: a healthy one is silent, planted defects are found and explained."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from trajectory_folders import checkpoint, neox, reads_all, run, tensors
from zoo import case_named

from circuit_econ.errors import ConfigurationError
from circuit_econ.model import inventory
from circuit_econ.tables import TABLES
from circuit_econ.trajectory import Loaded, audit, open_trajectory


def test_a_healthy_run(tmp_path: Path) -> None:
    result = audit(open_trajectory(run(tmp_path, (0, 1, 2, 4))), reads_all)
    assert result.schema == TABLES["audit"]
    assert result.height == 0


def test_a_healthy_run_of_a_real_architecture(tmp_path: Path) -> None:
    for step in range(3):
        model = neox()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)
        model.save_pretrained(tmp_path / f"step{step}")
    assert audit(open_trajectory(tmp_path), inventory).height == 0


def test_other_libraries_keep_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A small vocabulary beside the usual ids of control tokens makes Transformers warn."""
    case = case_named("gpt2")
    path = case.save(tmp_path, 3, seed=0)
    fields = case.config() | {"bos_token_id": 54321, "eos_token_id": 54321}
    (path.parent / "config.json").write_text(json.dumps(fields))
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    theirs = logging.getLogger("transformers")
    theirs.addHandler(handler)
    try:
        with caplog.at_level(logging.WARNING, logger="transformers"):
            assert audit(open_trajectory(tmp_path), inventory).height == 0
    finally:
        theirs.removeHandler(handler)
    assert records == []


def test_everything_wrong_at_once(tmp_path: Path) -> None:
    run(tmp_path, (0, 1, 2, 3, 4, 5, 6))
    checkpoint(tmp_path / "checkpoint-1", seed=0)
    checkpoint(tmp_path / "checkpoint-3", seed=6)
    bad = tensors(4)
    bad["w"][0, 0], bad["w"][1, 1] = math.nan, math.inf
    checkpoint(tmp_path / "checkpoint-4", weights=bad)
    (tmp_path / "checkpoint-5" / "model.safetensors").write_bytes(b"")
    seen: list[Loaded] = []
    result = audit(open_trajectory(tmp_path), reads_all, progress=seen.append)
    assert result.select("step", "finding", "tensor").rows() == [
        (0, "step-0-equals-step-1", None),
        (3, "final-weights-early", None),
        (4, "nan", "w"),
        (5, "unreadable", None),
    ]
    assert result["detail"][2] == "2 entries are NaN or infinite (step 4 alone)"
    assert result["detail"][3] == (
        f"{tmp_path / 'checkpoint-5' / 'model.safetensors'} is truncated or no safetensors file "
        "(0 bytes: SafetensorError: Error while deserializing header: header too small); copy, "
        "download or save it again"
    )
    assert [one.step for one in seen] == [0, 1, 2, 3, 4, 5, 6]


def test_neighbours_are_those_that_could_be_read(tmp_path: Path) -> None:
    run(tmp_path, (1, 2, 3))
    checkpoint(tmp_path / "checkpoint-3", seed=1)
    (tmp_path / "checkpoint-2" / "config.json").unlink()
    result = audit(open_trajectory(tmp_path), reads_all)
    assert result["finding"].to_list() == ["unreadable", "identical-neighbour"]


def test_a_missing_and_an_extra_tensor_of_a_real_architecture(tmp_path: Path) -> None:
    for step in (1, 2):
        model = neox()
        with torch.no_grad():
            model.gpt_neox.final_layer_norm.bias.add_(1.0)
        state = dict(model.state_dict())
        state["embed_out.weight"] = state.pop("lm_head.weight")
        if step == 2:
            del state["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"]
            state["gpt_neox.layers.2.odd"] = torch.ones(2)
        model.config.save_pretrained(tmp_path / f"step{step}")
        torch.save(state, tmp_path / f"step{step}" / "pytorch_model.bin")
    result = audit(open_trajectory(tmp_path), inventory)
    assert result.rows() == [
        (
            2,
            "missing-tensor",
            "gpt_neox.layers.1.mlp.dense_4h_to_h.weight",
            "the model needs it (step 2 alone)",
        ),
        (2, "extra-tensor", "gpt_neox.layers.2.odd", "the model does not use it (step 2 alone)"),
    ]


def test_an_unsupported_configuration_is_a_finding(tmp_path: Path) -> None:
    run(tmp_path, (7,))
    (tmp_path / "checkpoint-7" / "config.json").write_text('{"model_type": "rnn"}')
    [(step, finding, tensor, detail)] = audit(open_trajectory(tmp_path), inventory).rows()
    assert (step, finding, tensor) == (7, "unreadable", None)
    assert "rnn" in detail


def test_steps_are_chosen(tmp_path: Path) -> None:
    run(tmp_path, (0, 1, 2))
    checkpoint(tmp_path / "checkpoint-1", seed=0)
    trajectory = open_trajectory(tmp_path)
    assert audit(trajectory, reads_all, steps="1:2").height == 0
    assert audit(trajectory, reads_all, steps=[0, 1]).height == 1
    with pytest.raises(ConfigurationError, match="has no checkpoint at step 9"):
        audit(trajectory, reads_all, steps=9)
