"""Ledgers: their parts, seals and record, damaged after they were written."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import yaml
from commands import CASE

import circuit_econ as ce
from circuit_econ.cli import main
from fuzz.checkpoints import evaluation
from fuzz.mutating import special, spoil_file, spoil_tree
from fuzz.shop import FuzzError, Shop, SilentError, check_reason
from fuzz.spies import Spy

__all__ = ["ledgers", "printed"]

_MEASURES = ("value", "income")
_SETTINGS = {"value": ce.ValueSettings(placebo_draws=0)}


def _walk(folder: Path, **named: Any) -> ce.Ledger:
    trajectory = ce.open_trajectory(folder / "saved")
    return ce.walk(
        trajectory, evaluation(), _MEASURES, ["zero"], folder / "out", "cpu", settings=_SETTINGS,
        **named,
    )  # fmt: skip


def _make(folder: Path) -> None:
    for step in (1, 2):
        CASE.save(folder / "saved", step, seed=step)
    _walk(folder)


Tables = dict[str, list[tuple[Any, ...]]]


def _tables(ledger: ce.Ledger) -> Tables:
    """Every table but what may differ: the seconds."""
    return {
        name: ledger.table(name).collect().drop("seconds", "waited", strict=False).rows()
        for name in ledger.tables
    }


@cache
def _expected(root: Path) -> Tables:
    """The tables as they were written, read without the code under test."""
    found: Tables = {}
    folder = root / "good" / "walked" / "out" / "ledger"
    for table in sorted(p for p in folder.iterdir() if p.is_dir()):
        frames = [pl.read_parquet(part) for part in sorted(table.rglob("part-0.parquet"))]
        frame = pl.concat(frames).drop("seconds", "waited", strict=False)
        found[table.name] = frame.rows()
    return found


def _same(found: Tables, expected: Tables, exactly: bool = True) -> bool:
    if set(found) != set(expected):
        return False
    if exactly:
        return found == expected
    return all(
        len(found[name]) == len(expected[name]) and all(map(_close, found[name], expected[name]))
        for name in expected
    )


def _close(row: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(
        abs(a - b) <= 1e-5 * max(1, abs(b)) if isinstance(a, float) and isinstance(b, float)
        else a == b
        for a, b in zip(row, other, strict=True)
    )  # fmt: skip


def ledgers(shop: Shop, rng: Random) -> str:
    """Spoil a ledger; then read, report, export, audit it, or walk on."""
    folder = shop.good("walked", _make)
    out = folder / "out"
    expected = _expected(shop.root)
    shop.note(_spoil(shop, out, rng))
    verb = rng.choice(("open", "open", "audit", "report", "export", "walk", "walk"))
    shop.note(verb)
    if verb == "open":
        if not _same(_tables(ce.open_ledger(out)), expected):
            raise SilentError("tables are not those that were written")
        return "right"
    if verb == "walk":
        ledger = _walk(folder)
        for reason in ledger.table("checkpoints").collect()["reason"]:
            check_reason(reason)
        # The plan may be another: the same sums in another order.
        if not _same(_tables(ce.open_ledger(out)), expected, exactly=False):
            raise SilentError("a continued ledger is not the one that was written")
        return "right"
    if verb == "audit":
        code, said = printed(["audit", str(out)])
        changed = _differs(out, shop.root / "good" / "walked" / "out")
        if changed and code == 0:
            raise SilentError(f"the audit found nothing, and {changed} is another: {said}")
        return "refused" if code else "right"
    if verb == "report":
        code, _ = printed(["report", str(out), "--output", "page.html"])
        return "refused" if code else "unchecked"
    form, name = rng.choice((("json", "x.json"), ("csv", "x"), ("graphml", "x.graphml")))
    code, _ = printed(["export", str(out), "--format", form, "--output", name])
    if code:
        return "refused"
    good = shop.root / "good" / "walked" / "out"
    if printed(["export", str(good), "--format", form, "--output", f"of-{name}"])[0]:
        raise FuzzError("the good ledger is not exported")
    if form == "json":
        found, right = (json.loads(Path(n).read_text()) for n in (name, f"of-{name}"))
        if [found.get(k) for k in ("nodes", "links", "edges")] != [
            right.get(k) for k in ("nodes", "links", "edges")
        ]:
            raise SilentError("the exported graph is another")
        return "right"
    return "unchecked"


def _differs(out: Path, good: Path) -> str:
    """The first part or line of seals that is not as it was written, if any."""
    for path in sorted((good / "ledger").rglob("*.parquet")):
        here = out / path.relative_to(good)
        if not here.is_file() or here.read_bytes() != path.read_bytes():
            return str(path.relative_to(good))
    return ""


def printed(arguments: list[str]) -> tuple[int, str]:
    """The exit code of a command, and what it printed; fails if that is no answer to a user."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code: Any = main(arguments)
        except SystemExit as end:
            code = end.code
    text = said.getvalue()
    if code not in (0, 1, 2) or "Traceback" in text:
        raise FuzzError(f"code {code}: {text[-500:]}")
    for line in text.splitlines():
        if "circuit-econ: " in line:
            check_reason(line)
    return code, text


def _spoil(shop: Shop, out: Path, rng: Random) -> str:
    folder = out / "ledger"
    parts = sorted(folder.rglob("*.parquet"))
    part, other, seals, run = (
        rng.choice(parts),
        rng.choice(parts),
        folder / "seals.jsonl",
        out / "run.yaml",
    )
    name = part.relative_to(folder)
    match rng.randrange(14):
        case 0 | 1:
            spoil_file(part, rng, (b"PAR1",))
            return f"bytes of {name}"
        case 2:
            part.unlink()
            return f"no {name}"
        case 3:
            part.write_bytes(other.read_bytes())
            return f"{name} is {other.relative_to(folder)}"
        case 4:
            return f"{name}: {special(part, rng)}"
        case 5:
            frame = pl.read_parquet(part)
            twice = pl.concat([frame, frame])
            turned = (frame.reverse(), frame[:, ::-1], frame.with_row_index())
            changed = rng.choice((frame.head(0), frame.head(1), twice, *turned))
            changed.write_parquet(part)
            return f"other rows in {name}"
        case 6:
            added = rng.choice((part.with_name("part-1.parquet"), folder / "new.parquet",
                                part.parent.with_name("step=0000000009") / "part-0.parquet",
                                folder / "value" / "x", out / "ledger" / "x" / "y"))  # fmt: skip
            added.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(part, added)
            return f"{added.relative_to(out)} added"
        case 7:
            spoil_file(seals, rng, (b"\n", b"{}", b"null", b"[" * 9999, b'"gone": true'))
            return "bytes of seals"
        case 8:
            return _spoil_line(seals, rng)
        case 9:
            return special(rng.choice((seals, run, out / ".lock", out / ".partial")), rng)
        case 10:
            spoil_file(run, rng, (b"&a", b"*a", b"!!python/object:x", b"{", b"[" * 999, b"\t"))
            return "bytes of run.yaml"
        case 11:
            run.write_text(rng.choice(_bombs(shop, rng)) + run.read_text())
            return "bomb in run.yaml"
        case _:
            tree = yaml.safe_load(run.read_text())
            done = spoil_tree(tree, rng)
            text = yaml.safe_dump(tree, allow_unicode=False, sort_keys=False)
            run.write_text(text.encode("utf-8", "backslashreplace").decode())
            return f"run.yaml: {done}"


def _spoil_line(seals: Path, rng: Random) -> str:
    """Another value in one seal, a line less or twice, or in another order."""
    lines = [line for line in seals.read_text().split("\n") if line]
    place = rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[place]
        case 1:
            lines.append(lines[place])
        case 2:
            rng.shuffle(lines)
        case _:
            seal = json.loads(lines[place])
            done = spoil_tree(seal, rng, ("gone", "rows", "source", "files", "x"))
            lines[place] = json.dumps(seal)
            seals.write_text("\n".join(["", *lines, ""]))
            return f"seal {place}: {done}"
    seals.write_text("\n".join(["", *lines, ""]))
    return f"seal {place} and the others: gone, doubled or shuffled"


def _bombs(shop: Shop, rng: Random) -> tuple[str, ...]:
    laughs = "a0: &a0 [x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    spy = Spy(shop.spied, rng)
    return (
        laughs,
        "x: " + "[" * 20_000 + "\n",
        "x: " + "{a: " * 5_000 + "\n",
        f"x: !!python/object/apply:os.system ['touch {spy.mark}']\n",
        f"x: !!python/object/new:builtins.open ['{spy.mark}', 'w']\n",
        "x: !!binary ////\n",
        "x: 2001-99-99\n",
        "x: " + "9" * 50_000 + "\n",
        "x: 1:1:1:1:1:1:1:1e9\n",
        "? [a, b]\n: x\n",
        "<<: {schema_version: 9}\n",
        "x: \x85\u2028\n",
    )
