"""Pipes, sockets, devices and links without end where files and folders should be."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from commands import WALK, prepare

from fuzz.ledgers import printed
from fuzz.mutating import special
from fuzz.shop import Shop
from fuzz.texts import tokenizer

__all__ = ["specials"]

_PLACES = (
    "saved", "saved/config.json", "saved/step_1.safetensors", "saved/step_9.safetensors",
    "saved/step_9.pt", "saved/trainer_state.json", "saved/training.json", "text.txt", "texts",
    "texts/a.txt", "texts/b.jsonl", "texts/c.parquet", "tokenizer byte-level",
    "tokenizer byte-level/tokenizer.json", "tokenizer byte-level/tokenizer_config.json",
    "tokenizer byte-level/special_tokens_map.json", "out", "out/run.yaml", "out/ledger",
    "out/.lock",
    "out/.partial", "out/ledger/seals.jsonl", "out/report.html", ".untrained", "out/ledger/value",
    "out/ledger/value/step=0000000001", "page.html", "checkpoint-3", "saved/model.safetensors",
    "saved/adapter_config.json", "saved/step_2", "saved/checkpoint-2/config.json",
)  # fmt: skip


def specials(shop: Shop, rng: Random) -> str:
    """Whatever is no file in the place of a file or folder, and everything that would open it."""
    shop.good("prepared", prepare)
    for path in sorted(Path("prepared").iterdir()):
        path.rename(path.name)
    shop.good("tokenizer byte-level", tokenizer("byte-level"))
    Path("texts").mkdir()
    shutil.copy("text.txt", "texts/a.txt")
    place = rng.choice(_PLACES)
    shop.note(f"{place}: {special(shop.folder / place, rng)}")
    names = ("evaluation.path=texts",) if place.startswith("texts") else ()
    if place.startswith("tokenizer"):
        names = ("evaluation.tokenizer=tokenizer byte-level",)
    few = ("evaluation.sequences=2", "evaluation.reference_sequences=2", "trajectory.steps=[1]")
    few = few if rng.random() < 0.5 else few[:2]
    walk = ["walk", *WALK, *few, *names, "out=out"]
    others = (["audit", "saved"], ["audit", "out"], ["report", "out", "--output", "page.html"])
    export = ["export", "out", "--format", "json"]
    command = rng.choice((walk, walk, walk, ["plan", *walk[1:]], *others, export))
    shop.note(" ".join(command)[:40])
    code, _ = printed(command)
    return "refused" if code else "unchecked"
