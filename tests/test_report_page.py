"""The page: what it says of ledgers that are known exactly, and that it stands alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import synthetic
import vl_convert

from circuit_econ.errors import ConfigurationError, LedgerError
from circuit_econ.report import gather, write_page

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>'\"&"


def content_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    match = re.search(r'<script id="content" type="application/json">(.*?)</script>', text, re.S)
    assert match is not None
    return json.loads(match[1])


def visible(page: Path) -> str:
    """The page's HTML without scripts and style."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)


def test_page_holds_every_number_once(tmp_path: Path) -> None:
    ledger = synthetic.ledger(tmp_path / "run")
    page = write_page([ledger], tmp_path / "deep" / "report.html")
    assert page == tmp_path / "deep" / "report.html"
    content = content_of(page)
    assert [c["element"] for c in content["charts"]] == [f"chart-{i}" for i in range(5)]
    for chart in content["charts"]:
        assert f'id="{chart["element"]}"' in visible(page)
        assert "datasets" not in chart["spec"]
        assert "values" not in json.dumps(chart["spec"]["data"])
    packed = content["tables"]["accounts"]["columns"]
    accounts = gather(ledger).accounts
    assert synthetic.unpacked(packed["component"]) == accounts["component"].to_list()
    assert synthetic.unpacked(packed["value"]) == pytest.approx(
        accounts["value"].to_list(), rel=1e-6
    )
    assert content["steps"] == [0, 1, 10, 100, 1000]


def test_page_is_offline_and_reproducible(tmp_path: Path) -> None:
    ledger = synthetic.ledger(tmp_path / "run")
    first = write_page([ledger], tmp_path / "a.html").read_bytes()
    assert first == write_page([ledger], tmp_path / "b.html").read_bytes()
    text = first.decode()
    assert "default-src 'none'" in text
    assert not re.search(
        r"""<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=""", visible(tmp_path / "a.html")
    )
    assert text.count("window.vegaEmbed=") == 1
    assert len(first) < 1_500_000


def test_page_escapes_everything(tmp_path: Path) -> None:
    ledger = synthetic.ledger(
        tmp_path / "run",
        failed={1: HOSTILE},
        audit={10: HOSTILE},
        run={"study": HOSTILE, "notes": [HOSTILE], "trajectory": {HOSTILE: [HOSTILE, {"a": 1}]}},
    )
    page = write_page([ledger], tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    assert "window.pwned=1</script>" not in text
    assert "<img" not in visible(page)
    assert "&lt;/script&gt;&lt;script&gt;window.pwned=1" in visible(page)
    assert text.count("</script>") == 3


def test_page_says_what_was_run(tmp_path: Path) -> None:
    ledger = synthetic.ledger(tmp_path / "run", failed={1: "NaN in W_Q"})
    text = visible(write_page([ledger], tmp_path / "report.html"))
    for part in (
        "<h1>synthetic</h1>",
        "<dt>measures.value.n</dt><dd>8</dd>",
        "<dt>device</dt><dd>cpu</dd>",
        "<dt>numbers</dt><dd>float32</dd>",
        "<dt>audit</dt><dd>nothing found</dd>",
        "<dt>time</dt><dd>10.0 s over 5 checkpoints</dd>",
        f"<dd>{'ab' * 32}</dd>",
        "failed: NaN in W_Q",
        "Before you believe it",
        "ln_final",
        "8,192",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        ({"tables": ["value"]}, ["Needs value and capacity"], ["What heads attend to"]),
        (
            {"tables": ["capacity", "attention"]},
            [
                "Value was not measured at any checkpoint.",
                "What heads attend to",
                "Every component",
            ],
            ["The largest values"],
        ),
        (
            {"failed": dict.fromkeys(synthetic.STEPS, "corrupt")},
            ["None of 5 checkpoints could be measured.", "5 checkpoints could not be measured."],
            ["Every component"],
        ),
        ({"steps": []}, ["No checkpoint was recorded"], ["Every component"]),
        ({"steps": [7], "baselines": ["mean"]}, ["Every component"], ["Before you believe"]),
        ({"mlp": False, "others": False}, ["Every component"], ["Capacity without value"]),
    ],
)
def test_page_of_an_incomplete_ledger(
    tmp_path: Path, options: dict[str, Any], present: list[str], absent: list[str]
) -> None:
    ledger = synthetic.ledger(tmp_path / "run", **options)
    page = write_page([ledger], tmp_path / "report.html")
    for part in present:
        assert part in visible(page)
    for part in absent:
        assert part not in visible(page)
    for chart in content_of(page)["charts"]:
        chart["spec"]["datasets"] = {chart["spec"]["data"]["name"]: []}
        vl_convert.vegalite_to_vega(chart["spec"])


def test_page_compares_runs(tmp_path: Path) -> None:
    first = synthetic.ledger(tmp_path / "seed0")
    second = synthetic.ledger(tmp_path / "seed1", tables=["value"], steps=[0, 20], layers=1)
    page = write_page([first, second], tmp_path / "report.html")
    text = visible(page)
    assert "<h1>2 runs compared</h1>" in text
    assert "Before you believe" not in text
    row = re.search(r"<tr><td >seed1</td>.*?</tr>", text)
    assert row is not None
    assert re.findall(r">([^<]+)</td>", row[0]) == [
        "seed1", "2 of 2", "20", "3.400 ± 0.020", "m0: 0.4000 ± 0.0010", "mean, zero, resample",
    ]  # fmt: skip
    content = content_of(page)
    assert content["runs"] == ["seed0", "seed1"]
    assert [c["run"] for c in content["charts"]] == [
        None, "seed0", "seed1", "seed0", "seed1", None, "seed0",
    ]  # fmt: skip
    limits = {
        str(c["spec"]["spec"]["encoding"]["color"]["scale"]["domain"])
        for c in content["charts"]
        if "facet" in c["spec"]
    }
    assert len(limits) == 1
    assert content["steps"] == [0, 1, 10, 20, 100, 1000]


def test_page_of_a_large_run_stays_small(tmp_path: Path) -> None:
    ledger = synthetic.ledger(
        tmp_path / "run", layers=12, heads=12, steps=range(20), baselines=("mean",)
    )
    page = write_page([ledger], tmp_path / "report.html")
    assert content_of(page)["tables"]["accounts"]["height"] == 20 * 156
    assert page.stat().st_size < 2_000_000


def test_page_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = synthetic.ledger(tmp_path / "run", steps=[0])
    page = tmp_path / "report.html"
    page.write_text("the old page")

    def full_disk(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(LedgerError) as caught:
            write_page([ledger], page)
    assert str(caught.value) == (
        f"cannot write the page {str(page)!r}: free space or choose another place "
        "(OSError: [Errno 28] No space left on device)"
    )
    assert page.read_text() == "the old page"
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []
    write_page([ledger], page)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_page_in_a_place_that_cannot_be(tmp_path: Path) -> None:
    ledger = synthetic.ledger(tmp_path / "run", steps=[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"cannot write the page '.*report.html': "):
        write_page([ledger], tmp_path / "file" / "report.html")
    with pytest.raises(ConfigurationError) as caught:
        write_page([], tmp_path / "report.html")
    assert str(caught.value) == ("a report needs at least one run; name the folder a walk wrote")


def test_a_report_needs_no_torch() -> None:
    code = (
        "import sys, circuit_econ.report, circuit_econ.accounts; "
        "print([m for m in ('torch', 'transformer_lens', 'transformers') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
