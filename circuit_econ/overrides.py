"""What is typed on the command line, made readable to Hydra and kept from running anything.

Hydra's grammar knows numbers, lists and functions, and no letter beyond ASCII; names of files and
folders know nothing of that. And Hydra can be told to import and call whatever is installed. So
every override passes here once, before Hydra sees it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, Sweep

from circuit_econ.config import text_keys
from circuit_econ.errors import ConfigurationError, foreign

__all__ = ["JOB_GROUPS", "parse", "spell"]

JOB_GROUPS = ("hydra/launcher", "hydra/sweeper")
"""Groups of Hydra's own that may be chosen from."""

_JOB_KEYS = re.compile(r"hydra\.((launcher|sweeper)(\.[\w-]+)+|sweep\.(dir|subdir))")
_KNOWN = (*JOB_GROUPS, "hydra.launcher.<key>", "hydra.sweeper.<key>", "hydra.sweep.dir")
_REFERENCE = re.compile(r"\$\{(?!(oc\.env:[\w,/.~-]+|out|study|seed)\})")

_LONGEST, _DEEPEST = 100_000, 20
"""Characters of an override and brackets within brackets: beyond them the parser takes minutes."""

_HOW_TO_QUOTE = (
    "an override is key=value; a value with a space, a letter beyond ASCII or one of "
    """, = ~ # ' " [ ] { } ( ) is quoted twice, as in key='"a, b"'"""
)


def spell(overrides: Sequence[str], multirun: bool) -> list[str]:
    """Overrides as Hydra reads them.

    Values of keys that hold text are text, whatever they look like: they are quoted where Hydra
    would not read them, or read a number.

    Args:
        overrides: As typed.
        multirun: Whether ``a,b`` stands for two values.

    Raises:
        ConfigurationError: If one sets what could run code of others, or text has several values
            outside a multirun.
    """
    texts = text_keys()
    return [_spell(text, multirun, texts) for text in overrides]


def parse(text: str) -> Override:
    """An override, read by Hydra's grammar alone.

    Raises:
        ConfigurationError: If it cannot be read; it says how to quote.
    """
    with foreign(ConfigurationError, f"cannot read {text!r}"):
        override = _parsed(text)
    if override is None or not override.key_or_group:
        raise ConfigurationError(f"cannot read {text!r}: {_HOW_TO_QUOTE}")
    return override


def _spell(text: str, multirun: bool, texts: frozenset[str]) -> str:
    head, equals, value = text.partition("=")
    key = head.lstrip("+~")
    _refuse_foreign(text, head, key)
    if len(text) > _LONGEST or _depth(value) > _DEEPEST:
        raise ConfigurationError(f"{text}: too long or too deep to read")
    if not equals or head.startswith("~") or key not in texts:
        return text
    parts = _elements(value)
    if len(parts) > 1 and not multirun:
        raise ConfigurationError(
            f"""{text} gives several values: add -m for a run of each, or, if it is one name, """
            f"""quote it twice: {key}='"{value}"'"""
        )
    return f"{head}={','.join(_quoted(key, part.strip()) for part in parts)}"


def _refuse_foreign(text: str, head: str, key: str) -> None:
    """Refuse what makes Hydra call, read or write anything but runs of ours."""
    if "_target_" in text:
        raise ConfigurationError(f"{text}: _target_ names code to run; it cannot be set")
    if "@" in key:
        raise ConfigurationError(f"{text}: a group cannot be put elsewhere (@)")
    if key != "hydra" and not key.startswith(("hydra.", "hydra/")):
        if "/" in key:
            raise ConfigurationError(f"{text}: unknown group {key!r}")
        return
    if head.startswith("~") or not (key in JOB_GROUPS or _JOB_KEYS.fullmatch(key)):
        raise ConfigurationError(
            f"{key} cannot be set; of Hydra's own keys there is: {', '.join(_KNOWN)}"
        )
    if _REFERENCE.search(text):
        raise ConfigurationError(
            f"{text}: Hydra's own keys may refer to ${{out}}, ${{study}}, ${{seed}} and "
            "${oc.env:NAME} alone"
        )


def _quoted(key: str, part: str) -> str:
    """One value of a key that holds text, quoted where Hydra would not read it as such."""
    override = _parsed(f"key={part}")
    value = None if override is None else override.value()
    if isinstance(value, Sweep) or (override is not None and value is None):
        return part  # choice(…), glob(…); null
    if isinstance(value, list | dict):
        raise ConfigurationError(
            f"""{key} must be text, not {part}; if that is a name, quote it twice: """
            f"""{key}='"{part}"'"""
        )
    return part if isinstance(value, str) else QuotedString(part, Quote.double).with_quotes()


def _parsed(text: str) -> Override | None:
    """What Hydra's grammar makes of an override; None if it cannot read it."""
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_overrides([text])[0]
    except HydraException:
        return None


def _elements(value: str) -> list[str]:
    """Values between commas, leaving alone what is in brackets or quotes."""
    parts, start, depth, quote = [], 0, 0, ""
    for place, character in enumerate(value):
        before = value[place - 1 : place]
        if quote:
            quote = "" if character == quote and before != "\\" else quote
        elif character in "'\"" and not value[start:place].strip():
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)
        elif character == "," and not depth and before != "\\":
            parts.append(value[start:place])
            start = place + 1
    return [*parts, value[start:]]


def _depth(value: str) -> int:
    """How deep brackets lie within brackets."""
    deepest = depth = 0
    for character in value:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest
