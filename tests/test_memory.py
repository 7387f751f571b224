"""Peak memory of sweeps and of loading against what is allowed, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

CODE = """
import json, re, resource, sys, torch
from pathlib import Path
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan
from circuit_econ.measures.plan import Sizes
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
needs = {"value": lambda plan: plan.bytes(config, 512, torch.device("cpu"), torch.float32)}
sizes = Sizes(config, 512, 8, 8, ("mean",), torch.float32, torch.device("cpu"))
plan = Plan.choose(sizes, allowed, needs)
run(2 * layers, 512, plan, ("mean", "resample"))
whole = 2 * layers * 512 * 128 * 4 * (4 * layers + 1)
said = plan.bytes(config, 512, torch.device("cpu"), torch.float32)
print(json.dumps({"grew": peak() - before, "said": said, "rows": plan.rows, "trace": whole}))
"""


LOADING = """
import json, re, resource, sys
from pathlib import Path
import torch
import circuit_econ as ce

def now(what):
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(what + r":\\s+(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def walk(name):
    trajectory = ce.open_trajectory(Path(sys.argv[1]) / name)
    evaluation = ce.Evaluation(torch.arange(32)[None].repeat(2, 1))
    ledger = ce.walk(trajectory, evaluation, ["attention"], out=Path(sys.argv[1]) / f"{name}-out")
    assert ledger.table("checkpoints").collect()["status"].to_list() == ["measured"] * 3

walk("tiny")  # whatever is imported on the way
before = now("VmRSS")
walk("large")
print(json.dumps({"grew": now("VmHWM") - before}))
"""


def run(code: str, *arguments: object) -> dict[str, float]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "2",
        "MALLOC_ARENA_MAX": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=True, timeout=300, env=environment,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("layers", "allowed"), [(4, 250e6), (16, 400e6)])
def test_a_sweep_keeps_within_what_it_may_take(layers: int, allowed: float) -> None:
    found = run(CODE, layers, allowed)
    assert found["said"] <= allowed
    assert 0.1 * found["said"] < found["grew"] <= allowed
    # The clean pass kept whole would not fit beside sixteen layers.
    assert layers == 4 or found["trace"] > allowed


def test_reading_proving_and_making_takes_little_more_than_two_sets_of_weights(
    tmp_path: Path,
) -> None:
    for name, width in (("tiny", 8), ("large", 384)):
        config = GPT2Config(
            n_layer=6, n_embd=width, n_head=2, n_positions=64, vocab_size=12_000,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        for step in (0, 1, 2):
            torch.manual_seed(step)
            GPT2LMHeadModel(config).save_pretrained(tmp_path / name / f"checkpoint-{step}")
    size = (tmp_path / "large/checkpoint-0/model.safetensors").stat().st_size
    grew = run(LOADING, tmp_path)["grew"]
    # The model that is measured and the next checkpoint's file. What measuring takes, and what the
    # allocator has yet to give back, vary between 20 and 60 MB; copies that are kept make it 3.8 ×.
    assert size < grew < 2.2 * size + 65e6
