"""Runs cases in forked workers, with limits of time and memory, and counts what comes of them."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from circuit_econ.errors import CircuitEconError
from fuzz.shop import Case, FuzzError, Shop, SilentError, UnforeseenError, check_reason

__all__ = ["FINE", "VERDICTS", "Failure", "Limits", "jobs", "run"]

FINE = ("refused", "right", "unchecked")
VERDICTS = (*FINE, "silent", "unforeseen", "traceback", "hang", "memory", "foreign", "other")

ROOM = 8 << 30
"""Bytes of address space beyond which a worker gets none."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a case may take.

    Attributes:
        seconds: After which it hangs: none takes one, but the machine may be busy.
        memory: Bytes.
    """

    seconds: float = 60.0
    memory: int = 3 << 30


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that failed: ``make fuzz FUZZ_ONLY=generator:number`` with its seed runs it again."""

    generator: str
    number: int
    seed: int
    verdict: str
    detail: str
    notes: Sequence[str]


def run(
    cases: Mapping[str, Case],
    jobs: Sequence[tuple[str, int]],
    seed: int,
    workers: int = 1,
    limits: Limits = Limits(),
    say: Callable[[Failure], None] = lambda failure: None,
) -> tuple[dict[str, Counter[str]], list[Failure]]:
    """Run cases.

    Args:
        cases: The generators by name.
        jobs: Which of their cases: names and numbers.
        seed: Of everything; a case depends on it, its generator and its number alone.
        workers: How many run side by side.
        limits: What a case may take.
        say: Told every failure when it comes.

    Returns:
        Counts of verdicts by generator, and what failed.
    """
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    gc.collect()
    gc.freeze()
    counts = {name: Counter[str]() for name in cases}
    failures: list[Failure] = []
    try:
        hands = [_Hand(root / f"worker-{i}", cases, seed, limits) for i in range(workers)]
        (root / "good").mkdir()
        waiting = list(reversed(jobs))
        while waiting or any(hand.job for hand in hands):
            for hand in hands:
                if hand.job is None and waiting:
                    hand.give(waiting.pop())
            for hand in hands:
                for name, number, found in hand.answers():
                    counts[name][found["verdict"]] += 1
                    if found["verdict"] not in FINE:
                        said = found["verdict"], found["detail"], found["notes"]
                        failures.append(Failure(name, number, seed, *said))
                        say(failures[-1])
        for hand in hands:
            hand.end()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return counts, failures


def jobs(cases: Iterable[str], count: int, only: str | None = None) -> list[tuple[str, int]]:
    """Cases by turns, so many in all; or those of one generator; or a single one."""
    name, _, number = (only or "").partition(":")
    if number:
        return [(name, int(number))]
    chosen = [name] if name else list(cases)
    return [(chosen[i % len(chosen)], i // len(chosen)) for i in range(count)]


class _Hand:
    """A worker process, forked anew when a case was the end of it."""

    def __init__(self, place: Path, cases: Mapping[str, Case], seed: int, limits: Limits) -> None:
        self.place, self.cases, self.seed, self.limits = place, cases, seed, limits
        self.job: tuple[str, int] | None = None
        self.child: int | None = None
        self.began = 0.0

    def give(self, job: tuple[str, int]) -> None:
        if self.child is None:
            self._fork()
        self.job, self.began = job, time.monotonic()
        os.write(self.to, (json.dumps(job) + "\n").encode())

    def answers(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """What has come of the case, if anything."""
        if self.job is None:
            return
        name, number = self.job
        ready, _, _ = select.select([self.answer], [], [], 0.02)
        if ready:
            line = self.answer.readline()
            if line:
                found = json.loads(line)
                if found["verdict"] == "memory":
                    self.end()  # what it took does not come back
            else:  # the worker died
                _, status = os.waitpid(self.child or 0, 0)
                self.child = None
                found = {"verdict": "other", "detail": f"process ended: {status}", "notes": []}
                found["notes"] = self._notes()
        elif time.monotonic() - self.began > self.limits.seconds:
            self.end()
            found = {
                "verdict": "hang",
                "detail": f"{self.limits.seconds} s",
                "notes": self._notes(),
            }
        else:
            return
        self.job = None
        yield name, number, found

    def _notes(self) -> list[str]:
        with contextlib.suppress(OSError):
            return (self.place / "notes").read_text().splitlines()
        return []

    def end(self) -> None:
        if self.child is not None:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
            self.child = None

    def _fork(self) -> None:
        ours, to = os.pipe()
        answer, theirs = os.pipe()
        sys.stdout.flush()
        self.child = os.fork()
        if self.child == 0:
            os.close(to)
            os.close(answer)
            try:
                most, ends = self.limits.memory, (os.fdopen(ours), os.fdopen(theirs, "w"))
                _work(self.place, self.cases, self.seed, most, *ends)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(ours)
        os.close(theirs)
        self.to, self.answer = to, os.fdopen(answer)


# In the worker.


class _Watch:
    """Sees what Python does on behalf of a case: processes, connections, writing."""

    _RUNS = frozenset({"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen",
                       "socket.connect", "os.startfile", "pty.spawn"})  # fmt: skip
    _WRITES = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link",
                         "os.truncate", "shutil.rmtree"})  # fmt: skip

    def __init__(self, allowed: Path) -> None:
        self.allowed, self.seen, self.on = str(allowed), list[str](), False
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in self._RUNS:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._wrote(event, path)
        elif event in self._WRITES:
            # Of a link it is the second that appears.
            self._wrote(event, arguments[event in ("os.symlink", "os.link")])

    def _wrote(self, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (resolve would follow links)
        if not whole.startswith(self.allowed) and whole != os.devnull:
            self.seen.append(f"{event} {whole}")


def _work(
    place: Path, cases: Mapping[str, Case], seed: int, most: int, jobs: Any, answers: Any
) -> None:
    # What libraries print, panics of compiled code among it, is not looked at.
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    root = place.parent
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(place / "tmp")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = _Watch(root)
    for line in jobs:
        name, number = json.loads(line)
        folder = place / "case"
        shop = Shop(root, folder, place / "spied")
        found = _judge(cases[name], shop, Random(f"{seed} {name} {number}"), watch, place, most)
        answers.write(json.dumps({**found, "notes": shop.notes}) + "\n")
        answers.flush()


def _judge(
    case: Case, shop: Shop, rng: Random, watch: _Watch, place: Path, most: int
) -> dict[str, str]:
    _empty(shop.folder)
    shop.folder.mkdir()
    os.chdir(shop.folder)
    _reset_peak()
    before = _peak()
    watch.seen.clear()
    watch.on = True
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            verdict, detail = case(shop, rng), ""
    except CircuitEconError as error:
        verdict, detail = _refusal(error)
    except SilentError as error:
        verdict, detail = "silent", str(error)
    except UnforeseenError as error:
        verdict, detail = "unforeseen", str(error)
    except MemoryError as error:
        verdict, detail = "memory", str(error)
    except FuzzError as error:
        verdict, detail = "other", str(error)
    except BaseException as error:
        verdict = "traceback"
        detail = "".join(traceback.format_exception(error, limit=-8))[-1500:]
    watch.on = False
    os.chdir(place)
    if shop.spied.exists() or watch.seen:
        verdict, detail = "foreign", "; ".join(watch.seen) or "planted code ran"
        if shop.spied.is_dir():
            shop.spied.rmdir()
        else:
            shop.spied.unlink(missing_ok=True)
    taken = _peak() - before
    if taken > most:
        verdict, detail = "memory", f"{taken >> 20} MB"
    return {"verdict": verdict, "detail": detail}


def _refusal(error: CircuitEconError) -> tuple[str, str]:
    try:
        check_reason(str(error))
    except UnforeseenError:
        return "unforeseen", str(error)
    except (FuzzError, MemoryError) as wrong:
        return "memory" if isinstance(wrong, MemoryError) else "other", str(wrong)
    return "refused", str(error)


def _empty(folder: Path) -> None:
    if folder.exists():
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder)


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")
