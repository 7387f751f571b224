"""Which entries of a folder are checkpoints, and of which step, told from their names."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from circuit_econ.errors import ConfigurationError
from circuit_econ.trajectory.files import ADAPTER, CONFIG, WEIGHTS
from circuit_econ.trajectory.steps import LAST_STEP

__all__ = ["SUFFIXES", "by_step", "step_in"]

SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".ckpt"})
"""Files that hold one checkpoint each."""

_USUAL = re.compile(r"(checkpoint|step)[-_]?\{\}")
"""Folders that are checkpoints even if nothing is in them: they fail by name."""
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)+|[0-9]+")
_WORD = re.compile(r"([a-z]+)[-_=. ]*$")
_STEP = re.compile(r"(?:.*step|it|itr|iter|iteration|update)s?")
_CHECKPOINT = re.compile(r"checkpoint|ckpt|chkpt")
_EPOCH = re.compile(r"epochs?|ep")
_BESIDE = frozenset(
    {"of", "optim", "optimizer", "optimiser", "scheduler", "scaler", "rng", "rank", "consolidated"}
)
"""Words in the names of files that lie beside weights, or hold a part of them."""
_NO_STEP = frozenset({"seed", "run", "trial", "fold", "replica", "layer", "head", "tokens", "v"})
"""Words before numbers that count something else."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Name:
    """A name in parts: its numbers, and the word before each."""

    path: Path
    form: str  # the name without its numbers
    numbers: tuple[int, ...]
    words: tuple[str, ...]

    def steps(self) -> list[int]:
        """Places of the numbers that are called steps."""
        return [i for i, word in enumerate(self.words) if word == "step"]


def by_step(
    folder: Path, paths: Sequence[Path], *, files: bool, alone: bool
) -> tuple[dict[int, Path], list[Path]]:
    """The checkpoints among some entries of a folder by ascending step, and what is left.

    A name tells its step by the number after ``step`` or ``iter``; without such a word by its only
    number, or the only one that differs between names of one form. Names that speak of epochs or
    checkpoints are understood wherever they hold weights; others only where nothing else is there
    and several count up.

    Args:
        folder: Where they lie, for messages.
        paths: Files with one of :data:`SUFFIXES`, or folders.
        files: Whether they are files.
        alone: Whether nothing else in the folder could be the checkpoint.

    Raises:
        ConfigurationError: If two have one step, units are mixed, or it cannot be told which number
            is the step: the names are listed.
    """
    named = [_parts(path, path.stem if files else path.name) for path in paths]
    if files:
        named = [one for one in named if not _BESIDE & set(re.findall("[a-z]+", one.form))]
    forms: dict[str, list[_Name]] = defaultdict(list)
    for one in named:
        if one.numbers:
            forms[one.form].append(one)
    found: list[tuple[int, str, Path]] = []
    asked: list[_Name] = []
    for form, group in forms.items():
        weights = files or any(_holds_weights(one.path) for one in group)
        if not weights and not _USUAL.fullmatch(form):
            continue
        place = _place(group)
        if place is not None and group[0].words[place]:
            found += [(one.numbers[place], one.words[place], one.path) for one in group]
        else:
            asked += group
    if not found and alone and len(asked) > 1 and len({one.form for one in asked}) == 1:
        place = _place(asked)
        if place is not None and not _NO_STEP & set(re.findall("[a-z]+", asked[0].form)):
            found, asked = [(one.numbers[place], "", one.path) for one in asked], []
            _log.info(
                "%s: the number that counts up in %s is taken for the step",
                folder, _first([path.name for path in paths], 3),
            )  # fmt: skip
    if asked and not found and (alone or any(any(one.words) for one in asked)):
        raise _unclear(folder, [one.path for one in asked], "which number is the step?")
    if len({word == "epoch" for _, word, _ in found}) > 1:
        raise _unclear(folder, [one[2] for one in found], "some count epochs, others steps")
    taken: dict[int, Path] = {}
    for step, _, path in found:
        if step > LAST_STEP:
            continue
        if step in taken:
            raise ConfigurationError(
                f"{folder}: {taken[step].name} and {path.name} are both step {step}; "
                "move one of them elsewhere"
            )
        taken[step] = path
    left = set(paths) - set(taken.values())
    return dict(sorted(taken.items())), sorted(left)


def step_in(name: str) -> int | None:
    """The step that the name of a single checkpoint tells; None if it does not."""
    one = _parts(Path(name), name)
    place = _place([one])
    if place is None or not one.words[place] or one.numbers[place] > LAST_STEP:
        return None
    return one.numbers[place]


def _parts(path: Path, name: str) -> _Name:
    numbers, words, form, end = [], [], "", 0
    lowered = name.lower()
    for match in _NUMBER.finditer(lowered):
        count = "." not in match[0]  # a loss or a version otherwise
        form += lowered[end : match.start()] + ("{}" if count else "{.}")
        end = match.end()
        if count:
            word = _WORD.search(lowered[: match.start()])
            numbers.append(int(match[0]))
            words.append(_meaning(word[1]) if word else "")
    return _Name(path, form + lowered[end:], tuple(numbers), tuple(words))


def _meaning(word: str) -> str:
    for pattern, meaning in ((_STEP, "step"), (_CHECKPOINT, "checkpoint"), (_EPOCH, "epoch")):
        if pattern.fullmatch(word):
            return meaning
    return ""


def _place(group: Sequence[_Name]) -> int | None:
    """Which number of names of one form is the step; None if that cannot be told."""
    first = group[0]
    if len(first.steps()) == 1:
        return first.steps()[0]
    if len(first.numbers) == 1:
        return 0
    places = zip(*(one.numbers for one in group), strict=True)
    varying = [i for i, numbers in enumerate(places) if len(set(numbers)) > 1]
    return varying[0] if len(varying) == 1 and not first.steps() else None


def _holds_weights(folder: Path) -> bool:
    try:
        return any(os.path.lexists(folder / name) for name in (*WEIGHTS, CONFIG, ADAPTER))
    except (OSError, ValueError):
        return False


def _unclear(folder: Path, paths: Sequence[Path], why: str) -> ConfigurationError:
    form = "checkpoint-<step>" if paths[0].is_dir() else f"step_<step>{paths[0].suffix}"
    return ConfigurationError(
        f"{folder}: the steps of {_first([path.name for path in paths])} cannot be told ({why}); "
        f"name them {form}, or move what is no checkpoint elsewhere"
    )


def _first(names: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + rest
