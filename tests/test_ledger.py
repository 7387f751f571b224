"""The ledger's own keeping: what was written is what is read, whatever lies beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from commands import STEPS
from walked import part, rows, save, walk

import circuit_econ as ce
from circuit_econ.cli import main
from circuit_econ.ledger import LedgerWriter
from circuit_econ.ledger.seals import Record, Seal
from circuit_econ.tables import make_table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walked")
    save(folder / "saved")
    walk(folder / "saved", folder / "out")
    return folder


@pytest.fixture
def out(run: Path, tmp_path: Path) -> Path:
    """A copy of the ledger, with its times."""
    return Path(shutil.copytree(run / "out", tmp_path / "out"))


def again(run: Path, out: Path) -> ce.Ledger:
    return walk(run / "saved", out)


def test_folders_that_are_patterns_hold_their_own_tables(run: Path, tmp_path: Path) -> None:
    expected = rows(ce.open_ledger(run / "out"))
    other = shutil.copytree(run / "out", tmp_path / "seed=0")
    part(other, "value", 4).unlink()
    for name in ("seed=[0]", "seed=?", "*", "{a,b}", "[!x]"):
        assert rows(ce.open_ledger(shutil.copytree(run / "out", tmp_path / name))) == expected


def test_a_walk_into_a_folder_that_is_a_pattern(run: Path, tmp_path: Path) -> None:
    ledger = walk(run / "saved", tmp_path / "lr=[1e-3]*", steps=[0, 4])
    assert {row[0] for row in rows(ledger)} == {0, 4}
    assert rows(again(run, tmp_path / "lr=[1e-3]*")) == rows(ce.open_ledger(run / "out"))


# What lies beside our parts.


def strangers(out: Path) -> None:
    mine = part(out, "value", 1)
    shutil.copy(mine, mine.with_name("part-0 (conflicted copy).parquet"))
    shutil.copy(part(out, "value", 4), mine.with_name("part-1.parquet"))
    mine.with_name("part-0.parquet.tmp").write_bytes(b"half")
    mine.with_name(".DS_Store").write_bytes(b"\0")
    (out / "ledger" / "value" / "step=0000000099").mkdir()
    (out / "ledger" / "value" / "step=0000000099" / "part-0.parquet").write_bytes(b"none")
    (out / ".partial" / "folder").mkdir()
    (out / ".partial" / "notes.txt").write_text("mine")
    (out / ".partial" / f"{'0' * 32}.parquet").write_bytes(b"what a kill left")


def test_files_next_to_ours_are_no_data(run: Path, out: Path) -> None:
    expected = rows(ce.open_ledger(out))
    strangers(out)
    ledger = ce.open_ledger(out)
    assert rows(ledger) == expected and ledger.steps("value") == list(STEPS)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert rows(again(run, out)) == expected
    left = {p for p in before if not p.is_file()}
    assert left == {out / ".partial" / f"{'0' * 32}.parquet"}  # ours alone was cleared away


# Damage.


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def removed(path: Path) -> None:
    path.unlink()


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def foldered(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another_step(path: Path) -> None:
    shutil.copy(path.parent.with_name("step=0000000000") / path.name, path)


DAMAGE: dict[Callable[[Path], None], str] = {
    flipped: "is damaged: its digest is not the one recorded",
    halved: "is damaged: 100 bytes, and",
    emptied: "is damaged: 0 bytes, and",
    removed: "is missing",
    piped: "is not a regular file",
    foldered: "is not a regular file",
    of_another_step: "is damaged",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
@pytest.mark.parametrize("table", ["value", "tensors", "checkpoints"])
def test_a_damaged_part_is_named_and_never_read(
    out: Path, table: str, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(part(out, table, 1))
    name = rf"ledger in .*: {table}/step=0000000001/part-0.parquet {DAMAGE[damage]}"
    with pytest.raises(ce.LedgerError, match=name):
        ce.open_ledger(out)
    if table == "value":
        for verb in (["report", str(out)], ["export", str(out), "--format", "json"]):
            assert main(verb) == 2
            said = capsys.readouterr().err.splitlines()
            assert len(said) == 1 and "step=0000000001/part-0.parquet" in said[0]


@pytest.mark.parametrize("table", ["value", "tensors", "checkpoints", "audit", "components"])
def test_a_damaged_part_is_measured_again(
    run: Path, out: Path, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = ce.open_ledger(out)
    expected = {name: rows(whole, name) for name in whole.tables}
    where = out / "ledger" / "components" / "part-0.parquet"
    flipped(where if table == "components" else part(out, table, 4))
    untouched = part(out, "value", 1).stat().st_mtime_ns
    ledger = again(run, out)
    assert {name: rows(ledger, name) for name in ledger.tables} == expected
    assert part(out, "value", 1).stat().st_mtime_ns == untouched
    assert (
        "is damaged: its digest is not the one recorded when it was written: it is" in caplog.text
    )
    assert rows(ce.open_ledger(out)) == expected["value"]


def test_a_directory_in_the_place_of_a_part_is_named(run: Path, out: Path) -> None:
    foldered(part(out, "value", 4))
    with pytest.raises(ce.LedgerError, match="cannot write to .*a folder is there"):
        again(run, out)


# Seals.


def seals(out: Path) -> Path:
    return out / "ledger" / "seals.jsonl"


def test_what_is_of_size_and_time_is_not_read_again(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuit_econ.ledger import seals as module

    digest, read = module.digest_of, []

    def counted(path: Path) -> str:
        read.append(path)
        return digest(path)

    monkeypatch.setattr(module, "digest_of", counted)
    ce.open_ledger(out)
    assert read == []
    os.utime(part(out, "value", 1))
    ce.open_ledger(out)
    ce.open_ledger(out)
    assert read == [part(out, "value", 1)]


def test_damaged_lines_of_seals_are_measured_again(run: Path, out: Path) -> None:
    expected = rows(ce.open_ledger(out))
    lines = seals(out).read_text().splitlines()
    assert json.loads(lines[-1])["table"] == "audit"
    wrong = [
        "{", "3", "[]", '{"table": "../../etc", "step": 1}', '{"table": "value", "step": -1}',
        '{"table": "value"}', '{"table": "value", "step": 1, "rows": true}', "[" * 100_000,
        '{"table": "value", "step": 18446744073709551616}', '{"step": 1}', "\\xff",
        '{"table": "value", "step": ' + "9" * 5000 + "}",
    ]  # fmt: skip
    seals(out).write_text("\n".join([lines[0], *wrong, *lines[1:-4]]))
    ledger = again(run, out)
    assert rows(ledger) == expected and rows(ce.open_ledger(out)) == expected
    assert Record.read(out).damaged == ()


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe" * 50, b"\0" * 1000, None], ids=["none", "ff", "zeros", "pipe"]
)
def test_without_seals_everything_is_measured_again(
    run: Path, out: Path, content: bytes | None
) -> None:
    expected = rows(ce.open_ledger(out))
    seals(out).unlink()
    if content is None:
        os.mkfifo(seals(out))
        with pytest.raises(ce.LedgerError, match=r"seals of the ledger .* not a regular file"):
            ce.open_ledger(out)
        return
    seals(out).write_bytes(content)
    with pytest.raises(ce.LedgerError, match=r"seals were lost, .* \(and \d+ more\); walk again"):
        ce.open_ledger(out)
    assert rows(again(run, out)) == expected == rows(ce.open_ledger(out))


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ('"value", "step": 1,', "value/step=0000000001/part-0.parquet;"),
        ('"step": 4,', r"checkpoints/step=0000000004/part-0.parquet \(and 3 more\);"),
        ('"components"', "components/part-0.parquet;"),
    ],
)
def test_a_part_whose_seal_was_lost_is_not_left_out_in_silence(
    run: Path, out: Path, line: str, file: str
) -> None:
    expected = rows(ce.open_ledger(out))
    lines = seals(out).read_text().splitlines()
    kept = [one for one in lines if line not in one]
    assert len(kept) < len(lines)
    seals(out).write_text("\n".join(kept) + "\n")
    lost = f"seals were lost, nothing says what was written to {file}"
    with pytest.raises(ce.LedgerError, match=lost):
        ce.open_ledger(out)
    assert rows(again(run, out)) == expected == rows(ce.open_ledger(out))


def test_a_kill_between_seal_and_part_leaves_what_was_there(tmp_path: Path) -> None:
    said = {"identity": {"measures": {}}, "schema_version": 3}
    frame = make_table(
        "attention", {"step": 7, "component": "a0.h0", "quantity": "q", "amount": 1.0}
    )
    other = frame.with_columns(amount=pl.lit(2.0))
    with LedgerWriter.open(tmp_path, said) as writer:
        writer.write("attention", frame, 7)
    line = Seal("attention", 7, 1, 5, "0" * 64, 1).line
    with seals(tmp_path).open("a") as file:
        file.write(line)  # killed before the part was in place
    assert ce.open_ledger(tmp_path).table("attention").collect().equals(frame)
    with seals(tmp_path).open("a") as file:
        file.write(Seal("attention", 8, 1, 5, "0" * 64, 1).line)
    # A later line says that the write before it was finished: now the part is not what it must be.
    with pytest.raises(ce.LedgerError, match="step=0000000007/part-0.parquet is damaged"):
        ce.open_ledger(tmp_path)
    seals(tmp_path).write_text(seals(tmp_path).read_text().replace(line, ""))
    with LedgerWriter.open(tmp_path, said) as writer:
        assert writer.ledger.steps("attention") == [7]
        writer.write("attention", other, 7)
        with seals(tmp_path).open("a") as file:
            file.write(line[: len(line) // 2])  # torn
        writer.write("attention", frame.with_columns(step=pl.lit(9, pl.Int64)), 9)
    assert ce.open_ledger(tmp_path).steps("attention") == [7, 9]
    assert ce.open_ledger(tmp_path).table("attention").collect()["amount"].to_list() == [2.0, 1.0]


def test_steps_sort_as_numbers_beyond_ten_digits(tmp_path: Path) -> None:
    steps = [5, 9_999_999_999, 10_000_000_000, 2**63 - 1]
    with LedgerWriter.open(tmp_path, {"schema_version": 3}) as writer:
        for step in reversed(steps):
            columns = {"step": step, "component": "a0.h0", "quantity": "q", "amount": 1.0}
            writer.write("attention", make_table("attention", columns), step)
    ledger = ce.open_ledger(tmp_path)
    assert ledger.steps("attention") == steps
    assert ledger.table("attention").collect()["step"].to_list() == steps
    with pytest.raises(ValueError, match="no seal"):
        Seal("attention", 2**63)


def test_a_part_that_no_table_is_like_is_refused(tmp_path: Path) -> None:
    with LedgerWriter.open(tmp_path, {"schema_version": 3}) as writer:
        with pytest.raises(ValueError, match="is not Schema"):
            writer.write("attention", pl.DataFrame({"step": [1]}), 1)
        with pytest.raises(ValueError, match="rows of other steps than 2"):
            columns = {"step": 1, "component": "a0.h0", "quantity": "q", "amount": 1.0}
            writer.write("attention", make_table("attention", columns), 2)


# run.yaml.

BOMB = "a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it holds nothing, not a mapping"),
        ("- 1\n- 2\n", "it holds a list, not a mapping"),
        ("schema_version: [1", "ParserError: while parsing a flow sequence"),
        ("schema_version: 3\n\tx: [1\n", "ScannerError"),
        ("!!python/object/apply:os.system ['true']\n", "ConstructorError: could not determine"),
        (BOMB, r"an alias \(\*a\), which no walk writes"),
        ("a: " + "[" * 5000, "more than 64 levels of nesting"),
        ("schema_version: 3\nidentity: [1]\n", "identity is a list, not a mapping"),
        ("schema_version: 3\nplan: many\n", "plan is a text, not a mapping"),
        ("schema_version: 3\nnotes: 3\n", "notes is int 3, not a list"),
        ("schema_version: 3\nstudy: {a: 1}\n", "study is a mapping, not a text"),
        ("a: \x00", "ReaderError"),
        (b"\xff\xfe\xff", "UnicodeDecodeError"),
        (b"x" * 4_000_001, "4,000,001 bytes, where at most 4,000,000 make sense"),
    ],
)
def test_a_record_that_no_walk_wrote_is_refused(
    run: Path, tmp_path: Path, text: str | bytes, said: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ce.LedgerError, match=rf"run.yaml' cannot be read: restore it .*{said}"):
        ce.open_ledger(out)
    with pytest.raises(ce.LedgerError, match=rf"run.yaml' cannot be read: restore it .*{said}"):
        again(run, out)
    assert main(["report", str(out)]) == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("identity: {}", "trajectory: None there, '.*' asked for"),
        ("identity: {measures: [1]}", "trajectory: None there, '.*' asked for"),
        ("plan: {panel: many}", "its plan is none"),
        ("plan: {panel: -1}", "its plan is none"),
    ],
)
def test_a_record_of_the_wrong_content_is_refused(
    run: Path, out: Path, wrong: str, said: str
) -> None:
    import yaml

    record = yaml.safe_load((out / "run.yaml").read_text())
    (out / "run.yaml").write_text(yaml.safe_dump({**record, **yaml.safe_load(wrong)}))
    with pytest.raises(ce.LedgerError, match=said):
        again(run, out)


def test_a_pipe_for_a_record_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.yaml")
    with pytest.raises(ce.LedgerError, match="run.yaml' cannot be read.*not a regular file"):
        ce.open_ledger(tmp_path)


# Locks.


@pytest.mark.parametrize("number", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EIO"])
def test_file_systems_without_locks_are_written_to_with_a_warning(
    tmp_path: Path, number: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import errno
    import fcntl

    from circuit_econ.filing import held

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with LedgerWriter.open(tmp_path, {"schema_version": 3}) as writer:
        columns = {"step": 1, "component": "a0.h0", "quantity": "q", "amount": 1.0}
        writer.write("attention", make_table("attention", columns), 1)
    with held(tmp_path / "lock", "what others wait for", wait=True):
        pass
    assert ce.open_ledger(tmp_path).steps("attention") == [1]
    said = [r.getMessage() for r in caplog.records if "has no locks" in r.getMessage()]
    assert len(said) == 2 and "see to it that no other process writes there" in said[0]


@pytest.mark.parametrize("make", [Path.mkdir, lambda p: p.symlink_to(p.parent / "elsewhere")])
def test_a_lock_that_is_no_file_is_an_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / ".lock")
    with (
        pytest.raises(ce.LedgerError, match=r"cannot write to .*\.lock"),
        LedgerWriter.open(tmp_path, {"schema_version": 3}),
    ):
        pass
    assert not (tmp_path / "elsewhere").exists()


# audit.


def test_audit_of_a_ledger_that_is_whole(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(out)]) == 0
    assert capsys.readouterr().out == "out: 13 parts, nothing found\n"


def test_audit_of_a_ledger_names_all_that_is_wrong(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    mine = part(out, "value", 1)
    of_another_step(mine)
    part(out, "value", 4).unlink()
    times = part(out, "tensors", 4).stat()
    flipped(part(out, "tensors", 4))
    os.utime(part(out, "tensors", 4), ns=(times.st_atime_ns, times.st_mtime_ns))
    ce.open_ledger  # noqa: B018  (opening trusts size and time; the audit reads)
    shutil.copy(part(out, "value", 0), mine.with_name("part-0 (copy).parquet"))
    mine.with_name("part-0.parquet.tmp").write_bytes(b"half")
    with seals(out).open("a") as file:
        file.write("\nno seal\n")
    (out / "run.yaml").write_text("[")
    assert main(["audit", str(out)]) == 1
    said = capsys.readouterr().out
    table = [[cell.strip() for cell in line.split("│")[1:4]] for line in said.splitlines()
             if line.startswith("│")]  # fmt: skip
    found = [tuple(row) for row in table if row[1]]
    assert found == [
        ("", "damaged", "ledger/seals.jsonl"),
        ("", "damaged", "run.yaml"),
        ("1", "doubled", "ledger/value/step=0000000001/part-0 (copy).parquet"),
        ("1", "other-step", "ledger/value/step=0000000001/part-0.parquet"),
        ("1", "foreign", "ledger/value/step=0000000001/part-0.parquet.tmp"),
        ("4", "damaged", "ledger/tensors/step=0000000004/part-0.parquet"),
        ("4", "missing", "ledger/value/step=0000000004/part-0.parquet"),
    ]
    assert said.endswith("out: 10 parts, 7 findings\n")


def test_audit_refuses_steps_of_a_ledger_and_other_versions(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(out), "--steps", "0"]) == 2
    assert "is the ledger of a walk: it is audited as a whole" in capsys.readouterr().err
    (out / "run.yaml").write_text("schema_version: 2\n")
    assert main(["audit", str(out)]) == 2
    assert "has schema version 2; this version of circuit_econ reads 3" in capsys.readouterr().err
