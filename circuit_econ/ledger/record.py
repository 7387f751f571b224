"""``run.yaml``: what a run is, read only where it has the form in which it was written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import yaml

from circuit_econ.errors import LedgerError, foreign, one_line
from circuit_econ.filing import read_text
from circuit_econ.tables import SCHEMA_VERSION

__all__ = ["RUN_FILE", "dumped", "read_run"]

RUN_FILE: Final = "run.yaml"

_DEEPEST: Final = 64
"""Levels of nesting; what a walk writes has a handful."""

_FORMS: Final[Mapping[str, type]] = {
    "identity": Mapping,
    "plan": Mapping,
    "trajectory": Mapping,
    "evaluation": Mapping,
    "configuration": Mapping,
    "digests": Mapping,
    "versions": Mapping,
    "notes": list,
    "study": str,
    "device": str,
}
"""Of the keys that are read again; each may be missing."""

_UNREADABLE: Final = "{!r} cannot be read: restore it from a copy, or walk again into another out"

_CALLED: Final = {Mapping: "a mapping", list: "a list", str: "a text"}

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Plain(_Dumper):  # type: ignore[misc, valid-type]
    """Writes every value where it stands: an alias would only hide it from a reader."""

    def ignore_aliases(self, data: object) -> bool:
        """All of them."""
        return True


def dumped(run: Mapping[str, Any]) -> str:
    """The text of ``run.yaml``."""
    return yaml.dump(dict(run), Dumper=_Plain, sort_keys=False, allow_unicode=True)


def read_run(root: Path) -> dict[str, Any]:
    """What ``run.yaml`` in a run's folder says.

    Raises:
        LedgerError: If there is none, it cannot be read, its schema version is not the one this
            code reads, or a key does not hold what a walk writes there.
    """
    file = root / RUN_FILE
    with foreign(LedgerError, _UNREADABLE.format(str(file))):
        if not file.exists():
            raise LedgerError(
                f"no ledger in {str(root)!r}: {RUN_FILE} is missing; name the folder a walk wrote "
                "(its 'out'), the one that holds run.yaml and ledger/"
            )
        text = read_text(file)
        _check_events(text)
        content: object = yaml.load(text, Loader=_Loader)
    if not isinstance(content, Mapping):
        raise _unreadable(file, f"it holds {_called(content)}, not a mapping")
    run = {str(k): v for k, v in cast("Mapping[object, Any]", content).items()}
    version = run.get("schema_version")
    if version != SCHEMA_VERSION:
        raise LedgerError(
            f"ledger in {str(root)!r} has schema version {one_line(str(version))}; this version of "
            f"circuit_econ reads {SCHEMA_VERSION}: read it with the version that wrote it, or walk "
            "again"
        )
    for key, form in _FORMS.items():
        value = run.get(key)
        if value is not None and not isinstance(value, form):
            raise _unreadable(file, f"{key} is {_called(value)}, not {_CALLED[form]}")
        if value is None:
            run.pop(key, None)
    return run


def _check_events(text: str) -> None:
    """Refuse what no walk writes, before anything is made of it."""
    depth = 0
    for event in cast("Any", yaml).parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"an alias (*{event.anchor}), which no walk writes")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} levels of nesting")


def _unreadable(file: Path, said: str) -> LedgerError:
    return LedgerError(f"{_UNREADABLE.format(str(file))} ({said})")


def _called(value: object) -> str:
    for form, name in _CALLED.items():
        if isinstance(value, form):
            return name
    return "nothing" if value is None else f"{type(value).__name__} {value}"
