"""Chooses checkpoints of a trajectory: lists, ranges, log-spacing, every n-th, slices of steps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from circuit_econ.errors import ConfigurationError

__all__ = ["LAST_STEP", "Selection", "StepsLike", "every", "log_steps", "parse_steps", "shortened"]

LAST_STEP = 2**63 - 1
"""The largest step there can be: tables hold steps in 64 bits."""

_FORMS = (
    "a list of steps (0,10,100), a slice of steps (0:1000 or 0:1000:100, stop included), "
    "log:<n>, every:<n>, all or last"
)


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice among the steps that a trajectory has.

    Attributes:
        text: The choice as the command line spells it; two selections are equal if this is.
        choose: Maps the existing steps (ascending, not empty) to the chosen ones (ascending).
    """

    text: str
    choose: Callable[[tuple[int, ...]], tuple[int, ...]] = field(repr=False, compare=False)

    def __call__(self, existing: Sequence[int], where: str) -> tuple[int, ...]:
        """The chosen steps, in ascending order.

        Args:
            existing: The steps of the trajectory, ascending.
            where: Name of the trajectory, for messages.

        Raises:
            ConfigurationError: If a step does not exist or nothing is chosen.
        """
        chosen = self.choose(tuple(existing))
        absent = sorted(set(chosen) - set(existing))
        if absent:
            raise ConfigurationError(
                f"{where} has no checkpoint at step {shortened(absent)}; "
                f"there is: {shortened(existing)}"
            )
        if not chosen:
            raise ConfigurationError(
                f"steps {self.text} select no checkpoint of {where}; there is: "
                f"{shortened(existing)}"
            )
        return chosen


StepsLike = Selection | str | int | Iterable[int] | None
"""What :func:`parse_steps` understands."""


def parse_steps(spec: StepsLike) -> Selection:
    """The selection that a Python object or a text of the command line stands for.

    Args:
        spec: ``None`` or ``"all"`` (every checkpoint); ``"last"``; a step; a list of steps, each
            of which must exist (``[0, 10]`` or ``"0,10"``); a ``range`` (those checkpoints whose
            step lies in it; as in Python its stop is outside); ``"start:stop:step"``, the same
            **with stop included** and every part optional; ``"log:20"`` (:func:`log_steps`);
            ``"every:5"`` (:func:`every`); or a selection, which is returned as it is.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if spec is None:
        return parse_steps("all")
    if isinstance(spec, Selection):
        return spec
    if isinstance(spec, str):
        return _parse_text(spec)
    if isinstance(spec, range):
        if not spec:
            raise ConfigurationError(f"steps {spec} is empty; give {_FORMS}")
        ordered = spec if spec.step > 0 else spec[::-1]
        return _between(ordered[0], ordered[-1], ordered.step)
    return _listed([spec] if isinstance(spec, int) else spec)


def log_steps(n: int) -> Selection:
    """``n`` checkpoints as evenly spaced in log(1 + step) as the existing ones allow.

    The first and the last are always among them; all are taken if there are no more than ``n``.
    Where checkpoints are sparser than the spacing asked for, the rest is spaced anew from there.

    Raises:
        ConfigurationError: If ``n`` is less than 2.
    """
    _at_least(n, 2, "log:<n>")
    return Selection(f"log:{n}", partial(_choose_log, n))


def every(n: int) -> Selection:
    """Every ``n``-th checkpoint, beginning with the first (the last is taken only if its turn is).

    Raises:
        ConfigurationError: If ``n`` is less than 1.
    """
    _at_least(n, 1, "every:<n>")
    return Selection(f"every:{n}", partial(_choose_every, n))


def shortened(steps: Sequence[int], most: int = 12) -> str:
    """The steps as text; of many, the first and last few and their number."""
    if len(steps) <= most:
        return ", ".join(map(str, steps))
    head, tail = ", ".join(map(str, steps[:5])), ", ".join(map(str, steps[-3:]))
    return f"{head}, …, {tail} ({len(steps)} checkpoints)"


def _parse_text(text: str) -> Selection:
    spelled = text.strip()
    if any(len(digits) > len(str(LAST_STEP)) for digits in re.findall(r"\d+", spelled)):
        raise ConfigurationError(f"a step is at most {LAST_STEP}; give {_FORMS}")
    if spelled == "all":
        return Selection("all", tuple)
    if spelled == "last":
        return Selection("last", _choose_last)
    if match := re.fullmatch(r"(log|every):(\d+)", spelled):
        return {"log": log_steps, "every": every}[match[1]](int(match[2]))
    if match := re.fullmatch(r"(\d*):(\d*)(?::(\d*))?", spelled):
        start, stop, stride = (int(part) if part else None for part in match.groups())
        if stride == 0:
            raise ConfigurationError(f"steps {text!r}: the stride must be at least 1")
        return _between(start or 0, stop, stride or 1)
    if re.fullmatch(r"\[?\s*\d+(\s*,\s*\d+)*\s*\]?", spelled):
        return _listed(int(number) for number in re.findall(r"\d+", spelled))
    raise ConfigurationError(f"steps {text!r} is not understood; give {_FORMS}")


def _listed(steps: Iterable[object]) -> Selection:
    wanted: set[int] = set()
    for step in steps:
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise ConfigurationError(
                f"step {step!r} is not a whole number from 0 on; give {_FORMS}"
            )
        wanted.add(step)
    if not wanted:
        raise ConfigurationError(f"the list of steps is empty; give {_FORMS}")
    ordered = tuple(sorted(wanted))
    return Selection(",".join(map(str, ordered)), partial(_choose_listed, ordered))


def _between(start: int, stop: int | None, stride: int) -> Selection:
    text = f"{start}:{'' if stop is None else stop}" + (f":{stride}" if stride > 1 else "")
    return Selection(text, partial(_choose_between, start, stop, stride))


def _at_least(n: int, least: int, form: str) -> None:
    if n < least:
        raise ConfigurationError(f"steps {form}: n must be at least {least}, not {n}")


# Module-level functions rather than closures, so that a selection can be pickled.


def _choose_last(existing: tuple[int, ...]) -> tuple[int, ...]:
    return existing[-1:]


def _choose_listed(wanted: tuple[int, ...], existing: tuple[int, ...]) -> tuple[int, ...]:
    return wanted


def _choose_every(n: int, existing: tuple[int, ...]) -> tuple[int, ...]:
    return existing[::n]


def _choose_between(
    start: int, stop: int | None, stride: int, existing: tuple[int, ...]
) -> tuple[int, ...]:
    inside = range(start, (existing[-1] if stop is None else stop) + 1, stride)
    return tuple(step for step in existing if step in inside)


def _choose_log(n: int, existing: tuple[int, ...]) -> tuple[int, ...]:
    if len(existing) <= n:
        return existing
    place = [math.log1p(step) for step in existing]
    chosen = [0]
    for left in range(n - 1, 0, -1):
        # Aiming anew from the last choice: a gap at the start does not crowd what follows it.
        aim = place[chosen[-1]] + (place[-1] - place[chosen[-1]]) / left
        candidates = range(chosen[-1] + 1, len(existing) - left + 1)
        chosen.append(min(candidates, key=lambda index: abs(place[index] - aim)))
    return tuple(existing[index] for index in chosen)
