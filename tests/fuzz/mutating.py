"""Ways to spoil bytes, JSON and files."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["VALUES", "special", "spoil_bytes", "spoil_file", "spoil_json", "spoil_tree"]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, -1, -5, 0.5, -0.0, 1e-5, 1e9, 1e300, 10**9, 10**12, 2**31,
    2**63, 10**30, float("nan"), float("inf"), -float("inf"), "", "x", "1", "null", "eager",
    "owner/kernel", "../../etc/passwd", "/dev/zero", ".", "..", "a" * 10_000, "\0", "\n", "é",
    "\ud800", "\u202e", [], [1], [None], [[[]]], [1] * 5000, {}, {"a": 1}, {"": "x"},
    ["full_attention"], ["sliding_attention", "full_attention"], {"rope_type": "linear"},
    {"rope_type": "linear", "factor": 2.0}, {"type": "linear", "factor": "2"},
    {"rope_type": "default", "rope_theta": 50.0, "factor": 2.0}, {"rope_type": ["x"]},
    {"rope_theta": None}, "gelu", "relu", "gelu_new", "silu", "bidirectional", "LN", "RMSPre",
)  # fmt: skip


def spoil_bytes(content: bytes, rng: Random, signs: tuple[bytes, ...] = ()) -> bytes:
    """One to thirty changes: bits, bytes, blocks, huge numbers, a cut; somewhere, or at the start.

    Args:
        content: What is good.
        rng: Of the case.
        signs: What means something in such a file, and is put in.
    """
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 30))):
        if not data:
            data = bytearray(b"x")
        place = rng.randrange(min(len(data), rng.choice((16, 300, 2000, len(data)))))
        match rng.randrange(8):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                del data[place : place + rng.choice((1, 2, 8, 100, 10**6))]
            case 3:
                data[place:place] = rng.randbytes(rng.choice((1, 4, 50)))
            case 4:
                huge = (b"\xff" * 8, bytes(8), *(n.to_bytes(8, "little") for n in (2**62, 10**9)))
                data[place : place + 8] = rng.choice(huge)
            case 5:
                other = rng.randrange(len(data))
                data[place : place + 20] = data[other : other + 20]
            case 6 if signs:
                data[place:place] = rng.choice(signs)
            case 7 if rng.random() < 0.3:
                data = data[:place]
            case _:
                data += data[: place + 1]
    return bytes(data)


def spoil_file(path: Path, rng: Random, signs: tuple[bytes, ...] = ()) -> None:
    """Spoil the bytes of a file, or cut it off anywhere."""
    content = path.read_bytes()
    if rng.random() < 0.2:
        path.write_bytes(content[: rng.randrange(len(content) or 1)])
    else:
        path.write_bytes(spoil_bytes(content, rng, signs))


def spoil_tree(tree: Any, rng: Random, keys: tuple[str, ...] = (), values: Any = VALUES) -> str:
    """Replace, remove or add something anywhere in nested dictionaries and lists.

    Returns:
        What was done.
    """
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        if isinstance(node, dict):
            inside: Any = list(node.items())[:80]
        elif isinstance(node, list):
            inside = list(enumerate(node))[:30]
        else:
            return
        for key, value in inside:
            places.append((node, key))
            visit(value)

    visit(tree)
    if not places:
        return "nothing to change"
    node, key = rng.choice(places)
    chance = rng.random()
    if chance < 0.6:
        node[key] = rng.choice(values)
        return f"{key} = {node[key]!r:.80}"
    if chance < 0.8:
        del node[key]
        return f"no {key}"
    if isinstance(node, dict):
        key = rng.choice((*keys, "x", *map(str, node)))
        node[key] = rng.choice(values)
        return f"added {key} = {node[key]!r:.80}"
    node.append(rng.choice(values))
    return f"appended {node[-1]!r:.80}"


def spoil_json(path: Path, rng: Random, keys: tuple[str, ...] = (), values: Any = VALUES) -> str:
    """Spoil the content of a JSON file; returns what was done."""
    tree = json.loads(path.read_text())
    if rng.random() < 0.03:
        tree = rng.choice(VALUES)
        done = [f"all = {tree!r:.80}"]
    else:
        times = rng.choice((1, 1, 1, 2, 4))
        done = [spoil_tree(tree, rng, keys, values) for _ in range(times)]
    path.write_text(json.dumps(tree))
    return "; ".join(done)


SPECIALS = (
    "fifo", "folder", "zero", "random", "full", "stdin", "loop", "nowhere", "socket", "huge",
    "empty", "unreadable", "root", "tty", "memory",
)  # fmt: skip


def special(path: Path, rng: Random) -> str:
    """Put something that is no file in a file's place; returns what."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = rng.choice(SPECIALS)
    targets = {
        "zero": "/dev/zero", "random": "/dev/urandom", "full": "/dev/full", "stdin": "/dev/stdin",
        "loop": path.name, "nowhere": "nowhere/x", "root": "/proc/self", "tty": "/dev/tty",
        "memory": "/proc/self/mem",
    }  # fmt: skip
    if kind in targets:
        path.symlink_to(targets[kind])
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        _socket(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(50 << 30)  # of holes
    else:
        path.touch()
        if kind == "unreadable":
            path.chmod(0)
    return f"{path.name} is {kind}"


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name[:90])
    finally:
        os.chdir(before)
