"""Peak memory of a sweep against what it was allowed, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, re, resource, sys, torch
from pathlib import Path
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan
from circuit_econ.measures.sweep import Variant, sweep
from circuit_econ.model import Format, Model, Source, read_config
from circuit_econ.model.intervene import components
from circuit_econ.model.weights import blank

layers, allowed = int(sys.argv[1]), float(sys.argv[2])
fields = {"n_layers": layers, "n_heads": 4, "d_head": 32, "d_model": 128, "d_mlp": 256,
          "n_ctx": 512, "d_vocab": 2000, "act_fn": "gelu"}
config = read_config(Source(Format.TRANSFORMER_LENS, fields, {}, "many layers"))
model = Model(config, blank(config, torch.float32, torch.device("cpu")))
parts = components(config, embeddings=False)[:: 2 * layers]


def run(sequences, length, plan, baselines):
    tokens = torch.zeros(sequences, length, dtype=torch.int64)
    context = Context(model, Evaluation(tokens, reference=tokens[:8]), 0, baselines, plan)
    variants = [Variant((part,), b) for part in parts for b in baselines]
    variants += [Variant((parts[0],), b, placebo=True) for b in baselines]
    sweep(context, variants)


def peak():
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss begins with what the parent held when it forked.
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


run(8, 8, Plan(), ("mean", "resample"))
before = peak()
plan = Plan.choose(config, 512, torch.device("cpu"), allowed)
run(2 * layers, 512, plan, ("mean", "resample"))
whole = 2 * layers * 512 * 128 * 4 * (4 * layers + 1)
said = plan.bytes(config, 512, torch.device("cpu"), torch.float32)
print(json.dumps({"grew": peak() - before, "said": said, "rows": plan.rows, "trace": whole}))
"""


def grown(layers: int, allowed: float) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(layers), str(allowed)],
        capture_output=True, text=True, check=True, timeout=300, env=environment,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize(("layers", "allowed"), [(4, 250e6), (16, 400e6)])
def test_a_sweep_keeps_within_what_it_may_take(layers: int, allowed: float) -> None:
    found = grown(layers, allowed)
    assert found["said"] <= allowed
    assert 0.1 * found["said"] < found["grew"] <= allowed
    # The clean pass kept whole would not fit beside sixteen layers.
    assert layers == 4 or found["trace"] > allowed
