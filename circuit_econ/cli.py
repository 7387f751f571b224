"""The command line: verbs before everything, Hydra behind ``walk`` and ``plan``.

Nothing heavy is imported before a verb needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from circuit_econ.errors import CircuitEconError, ConfigurationError, LedgerError, told
from circuit_econ.places import config_folder, installed

__all__ = ["main"]

DONE, DEFECTIVE, WRONG = 0, 1, 2

_HELP = """circuit-econ: what every circuit of a transformer earns, and what it costs, over training

  circuit-econ walk [overrides]         the main job; without overrides: study=quickstart
  circuit-econ walk -m [overrides]      a multirun: every combination of a,b,c values
  circuit-econ plan [overrides]         what a walk would do and cost; loads no weights
  circuit-econ audit TRAJECTORY         integrity of the checkpoints of a run
  circuit-econ audit RUN                integrity of a ledger
  circuit-econ report RUN [RUN ...]     (re)build the page from a ledger; several runs are compared
  circuit-econ export RUN               the composition graph for other tools: --format F

Add --help to a verb for its options, --debug to see the tracebacks of what failed. Exit codes:
0 done; 1 finished, but something could not be measured or is defective; 2 wrong usage or
configuration.
"""

_WALK_HELP = """circuit-econ {verb} [overrides]

Overrides are key=value. The groups and their choices:
  study=            {studies}
  trajectory=       folder (path), hub (name), trained (training.*); each has steps
  evaluation=       embedded, file (path), dataset (name), task (name)
  device=           auto, cpu, cuda
The keys:
  trajectory.path=FOLDER   trajectory.steps=[0,1000] | log:20 | every:5 | 0:1000:100 | last
  measure=[value,attention,capacity,composition,income,edges,circuits]
                           settings: measures.<name>.<key>=
  baselines=[mean,mean-position,zero,resample]
  precision={{absolute:0.002,relative:0.05}}   each component gets the sequences it needs
  --remeasure STEP         measure all of a checkpoint again, because it changed
  seed=0   dtype=float32 | float64 | tf32 | bfloat16   device.memory=GB   out=FOLDER
Names of files and folders are taken as they are; one with a comma or in brackets is quoted twice:
  trajectory.path='"a,b"'
Examples:
  circuit-econ walk study=induction
  circuit-econ walk trajectory=folder trajectory.path=my-run evaluation.tokenizer=my-run/tokenizer
  circuit-econ walk trajectory=hub trajectory.name=EleutherAI/pythia-70m trajectory.steps=log:20 \\
      evaluation.tokenizer=EleutherAI/pythia-70m
  circuit-econ walk -m study=induction seed=0,1,2,3,4
Everything a configuration holds: circuit-econ {verb} --cfg job
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [one for one in given if one != "--debug"]
    verbs: dict[str, Callable[[list[str]], int]] = {
        "walk": _walk,
        "plan": _plan,
        "audit": _audit,
        "report": _report,
        "export": _export,
    }
    if not given or given[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return DONE if given else WRONG
    if given[0] == "--version":
        print(installed("circuit-econ"))
        return DONE
    if given[0] not in verbs:
        return _refuse(f"unknown verb {given[0]!r}; there is: {', '.join(verbs)}")
    _log(debug)
    try:
        with _ended_by_signal():
            return verbs[given[0]](given[1:])
    except (ConfigurationError, LedgerError) as error:
        return _refuse(str(error))
    except CircuitEconError as error:
        print(f"circuit-econ: {error}", file=sys.stderr)
        return DEFECTIVE
    except KeyboardInterrupt:
        print(
            "circuit-econ: interrupted; what was measured is kept, and the same command goes on",
            file=sys.stderr,
        )
        return DEFECTIVE
    except Exception as error:
        hint = "" if debug else "; --debug shows the traceback"
        print(f"circuit-econ: this should not happen: {told(error)}{hint}", file=sys.stderr)
        logging.getLogger("circuit_econ").debug("%s", given[0], exc_info=error)
        return DEFECTIVE


def _refuse(reason: str) -> int:
    print(f"circuit-econ: {reason}", file=sys.stderr)
    return WRONG


@contextmanager
def _ended_by_signal() -> Generator[None, None, None]:
    """SIGTERM ends a verb as Ctrl-C does: what a scheduler ends says how to go on."""
    ended = False

    def end(_number: int, _frame: object) -> NoReturn:
        nonlocal ended
        ended = True
        raise KeyboardInterrupt

    # Only the main thread may say what a signal does.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except Exception as error:
        if ended:  # others' code stumbled while it was cleaning up
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class _Stderr(logging.Handler):
    """Our own lines on standard error, wherever that leads when they are written (above a bar)."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _log(debug: bool) -> None:
    """Our own lines; other libraries' warnings as they come."""
    own = logging.getLogger("circuit_econ")
    if not own.handlers:
        own.addHandler(_Stderr())
        own.propagate = False
    own.setLevel(logging.DEBUG if debug else logging.INFO)


def _walk(arguments: list[str]) -> int:
    return _with_overrides("walk", arguments)


def _plan(arguments: list[str]) -> int:
    return _with_overrides("plan", arguments)


def _with_overrides(verb: str, arguments: list[str]) -> int:
    parser = _Parser(f"circuit-econ {verb}", add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("--resolve", action="store_true")
    if verb == "walk":
        parser.add_argument("--remeasure", action="append", type=int, default=[], metavar="STEP")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args(arguments)
    if given.help:
        return _help(verb)
    if given.resolve and not given.cfg:
        parser.error("--resolve goes with --cfg job")
    from circuit_econ.composing import Request, compose, show

    request = Request(tuple(given.overrides), given.multirun)
    if given.cfg:
        print(show(request, given.resolve), end="")
        return DONE
    if verb == "walk":
        from circuit_econ.hydra_runs import launch

        return launch(request, given.remeasure)
    from rich.console import Console

    from circuit_econ.planning import forecast

    for config in compose(request):
        Console().print(forecast(config))
    return DONE


def _help(verb: str) -> int:
    studies = ", ".join(sorted(p.stem for p in (config_folder() / "study").glob("*.yaml")))
    print(_WALK_HELP.format(verb=verb, studies=studies), end="")
    return DONE


def _audit(arguments: list[str]) -> int:
    parser = _Parser(
        "circuit-econ audit", "Integrity of the checkpoints of a run, or of the ledger of a walk."
    )
    parser.add_argument(
        "trajectory", help="a folder, a hub name (which needs --steps), or the out of a walk"
    )
    parser.add_argument("--steps", help="which checkpoints: 0,1000 | log:20 | every:5 | 0:1000:100")
    given = parser.parse_args(arguments)
    from circuit_econ.ledger import check_ledger, is_ledger

    if is_ledger(Path(given.trajectory)):
        if given.steps is not None:
            parser.error(f"{given.trajectory!r} is the ledger of a walk: it is audited as a whole")
        count, defects = check_ledger(Path(given.trajectory))
        rows = [(d.step, d.kind, d.file, d.detail) for d in defects]
        return _findings(Path(given.trajectory).resolve().name, f"{count} parts", "file", rows)
    from circuit_econ.model import inventory
    from circuit_econ.trajectory import audit, open_trajectory

    trajectory = open_trajectory(given.trajectory, steps=given.steps)
    found = audit(trajectory, inventory).rows()
    return _findings(trajectory.name, f"{len(trajectory.steps)} checkpoints", "tensor", found)


def _findings(name: str, count: str, place: str, rows: Sequence[tuple[object, ...]]) -> int:
    """Print what an audit found, and return its exit code."""
    if not rows:
        print(f"{name}: {count}, nothing found")
        return DONE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("step", "finding", place, "detail")
    for row in rows:
        # Text: square brackets in a name are no markup.
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    Console().print(table)
    print(f"{name}: {count}, {len(rows)} findings")
    return DEFECTIVE


def _report(arguments: list[str]) -> int:
    parser = _Parser("circuit-econ report", "(Re)build the page from a ledger.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of walks: their out")
    parser.add_argument(
        "--output",
        type=Path,
        help="the page (default: report.html in RUN; comparison.html in the first of several)",
    )
    given = parser.parse_args(arguments)
    from circuit_econ.ledger import open_ledger
    from circuit_econ.report import write_page

    ledgers = [open_ledger(run) for run in given.runs]
    # A comparison must not take the place of the first run's own page.
    name = "report.html" if len(ledgers) == 1 else "comparison.html"
    print(write_page(ledgers, given.output or ledgers[0].path / name))
    return DONE


def _export(arguments: list[str]) -> int:
    parser = _Parser("circuit-econ export", "Write the composition graph for other tools.")
    parser.add_argument("run", metavar="RUN", help="folder of a walk: its out")
    parser.add_argument(
        "--format",
        metavar="F",
        help="graphml gexf cytoscape eap-ig neuronpedia dot json csv (default: by the suffix of "
        "--output)",
    )
    parser.add_argument(
        "--step",
        default="last",
        metavar="S",
        help="a checkpoint, or all: a timeline in gexf, else a folder (default: the last)",
    )
    parser.add_argument(
        "--output", type=Path, help="file or folder (default: graph-S.F in RUN; a folder for all)"
    )
    parser.add_argument("--baseline", metavar="B", help="default: the run's first")
    parser.add_argument(
        "--minimum",
        type=float,
        default=0.0,
        metavar="X",
        help="leave out edges of a smaller absolute flow, in nats",
    )
    given = parser.parse_args(arguments)
    if given.format is None and given.output is None:
        parser.error("name a --format, or an --output whose suffix says it")
    if given.step not in ("last", "all") and not given.step.isdecimal():
        parser.error(f"--step is a number, last or all, not {given.step!r}")
    from circuit_econ.graph import composition_graph, default_output, export, graph_steps
    from circuit_econ.ledger import open_ledger

    ledger = open_ledger(given.run)
    known = graph_steps(ledger)
    if given.step == "all":
        name, chosen = "all", [composition_graph(ledger, step, given.baseline) for step in known]
    else:
        name = known[-1] if given.step == "last" else int(given.step)
        chosen = composition_graph(ledger, name, given.baseline)
    output = given.output or ledger.path / default_output(str(given.format), name)
    for file in export(chosen, output, given.format, given.minimum):
        print(file)
    return DONE


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line, exit code 2."""

    def __init__(self, prog: str, description: str | None = None, add_help: bool = True) -> None:
        super().__init__(prog, description=description, add_help=add_help, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; see {self.prog} --help")
