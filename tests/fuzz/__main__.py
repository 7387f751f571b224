"""``python -m fuzz``: thousands of cases, a table, and the seeds of what failed."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from fuzz.running import VERDICTS, Failure, Limits, jobs, run
from fuzz.shop import Case


def _planted() -> Mapping[str, Case]:
    from fuzz.planted import PLANTED

    return PLANTED


def _all() -> Mapping[str, Case]:
    """All generators, with whatever is loaded late loaded now, once for all workers."""
    import torch

    from circuit_econ.model import Model
    from fuzz.catalogue import CASES

    torch.set_num_threads(1)
    Model.initialise({"d_model": 4, "d_head": 2, "n_layers": 1, "n_ctx": 4, "d_vocab": 3})
    return CASES


def _say(failure: Failure) -> None:
    """A failure, when it comes."""
    said = f"{failure.generator}:{failure.number} {failure.verdict}: {failure.detail}"
    print(
        "\n".join([said, *(f"    {note}" for note in failure.notes)]), file=sys.stderr, flush=True
    )


def main() -> int:
    """Run cases and say what came of them; 1 if any failed."""
    parser = argparse.ArgumentParser("fuzz")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", help="generator, or generator:number")
    parser.add_argument("--failures", type=Path, help="where failing cases are listed, as JSON")
    parser.add_argument("--planted", action="store_true", help="cases that are known to fail")
    given = parser.parse_args()
    cases = _planted() if given.planted else _all()
    chosen = jobs(cases, given.cases, given.only)
    began = time.perf_counter()
    limits = Limits(8.0, 256 << 20) if given.planted else Limits()
    counts, failures = run(cases, chosen, given.seed, given.workers, limits, _say)
    shown = [v for v in VERDICTS if any(c[v] for c in counts.values()) or v not in ("other",)]
    print(f"{'':16}" + "".join(f"{v:>11}" for v in ("cases", *shown)))
    for name, found in [*counts.items(), ("all", sum(counts.values(), Counter[str]()))]:
        figures = (found.total(), *(found[v] for v in shown))
        print(f"{name:16}" + "".join(f"{n:>11}" for n in figures))
    print(f"seed {given.seed}, {time.perf_counter() - began:.0f} s")
    if given.failures and failures:
        given.failures.write_text(json.dumps([asdict(f) for f in failures], indent=1))
        print(f"\nlisted in {given.failures}; again: make fuzz FUZZ_ONLY=generator:number")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
