"""Benchmarks run, write JSON that tells where it comes from, and the docs show that JSON."""

import json
import math
import pathlib
import time

import pytest

from benchmarks import __main__ as program
from benchmarks import codec, harness, loops, tables, training_step
from benchmarks.stacks import FIT, LOOP, Variant

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def small(monkeypatch):
    """A codec benchmark of 4 k weights and one format, for its shape and not for its figures."""
    monkeypatch.setattr(codec, "_QUICK", {1 << 12: ((64, 64), 4, 3)})
    monkeypatch.setattr(codec, "_QUICK_FORMATS", ("INT8",))


def test_codec_writes_valid_json(small, tmp_path, capsys):
    program.main([f"--out={tmp_path}", "--only=codec", "--quick"])
    result = json.loads((tmp_path / "codec.json").read_text())
    assert result["quick"] is True
    assert result["versions"]["tensorflow"].startswith("2.14")
    assert result["processor"] and result["cores"] >= 1
    table = result["tables"][0]
    rows = table["rows"]
    assert {row["mode"] for row in rows} >= {"xla", "ops"}
    for row in rows:
        assert row["format"] == "INT8" and row["weights"] == 1 << 12
        for key, _, spec in table["columns"]:
            if spec.endswith("f") and row[key] is not None:  # None is lost in noise.
                assert math.isfinite(row[key]) and row[key] > 0, key
    assert "copy, all threads" in capsys.readouterr().out


def test_interleaved_takes_turns_and_keeps_to_its_time():
    calls = []
    functions = {name: lambda n=name: calls.append(n) for name in "ab"}
    taken = harness.interleaved(functions, rounds=3)
    assert calls == list("ab") * 4  # One round to warm up.
    assert [len(seconds) for seconds in taken.values()] == [3, 3]
    slow = harness.interleaved({"a": lambda: time.sleep(0.02)}, rounds=50, seconds=0.01)
    assert len(slow["a"]) == 3


def test_time_of_the_loop_is_taken_off_and_noise_is_not_a_figure():
    each = {"empty": 1e-6, "copy_1": 3e-6, "copy_all": 1.1e-6, "decode": 2e-6}
    time = loops.nanoseconds(each, "decode", weights=100)
    assert time == pytest.approx(10)
    row = loops.to_copies(each, time, 100)
    assert row["copy_1_ns"] == pytest.approx(20) and row["to_copy_1"] == pytest.approx(0.5)
    assert row["copy_all_ns"] is None and row["to_copy_all"] is None
    assert loops.nanoseconds(each, "decode", 100, looped=False) == pytest.approx(20)


def test_target_names_the_format_farthest_off():
    rows = [
        {"mode": mode, "format": name, "weights": 9, "decode_to_copy_1": x, "add_to_copy_1": None}
        | {"decode_to_copy_all": 0.5, "add_to_copy_all": 3.5}
        for mode, name, x in (("native", "INT8", 0.9), ("native", "INT4", 1.1), ("ops", "INT2", 9))
    ]
    found = {row["what"]: row["met"] for row in codec._target_rows(rows)}
    assert found["decode, 9 weights, x copy by 1 thread; worst of 2 formats, INT4"] is False
    assert found["decode, 9 weights, x copy by all threads; worst of 2 formats, INT8"] is True
    assert not any("add" in what and "1 thread" in what for what in found)


def test_targets_compare_the_right_way():
    assert harness.target("x", 0.41, 0.42, at_most=True)["met"] is True
    assert harness.target("x", 0.43, 0.42, at_most=True)["met"] is False
    assert harness.target("x", 0.43, 0.42, at_most=False)["met"] is True


def test_step_ratios_of_known_figures():
    native = Variant("INT4", "native")
    found = {str(FIT): [2.0, 4.0, 9.0], str(LOOP): [1.0, 2.0, 3.0], str(native): [4.0, 5.0, 6.0]}
    rows = {row["path"]: row for row in training_step._speed_rows(2, 8, 16, found)}
    if "native" in rows:
        assert (rows["native"]["speed_fit"], rows["native"]["speed_fit_min"]) == (0.8, 0.5)
        assert (rows["native"]["speed_loop"], rows["native"]["speed_loop_min"]) == (0.4, 0.25)
    peaks = {
        variant: {"stored_bytes": 10, "peak_bytes": peak}
        for variant, peak in ((FIT, 400), (LOOP, 200), (native, 100))
    }
    row = list(training_step._peak_rows(16, 2048, 64, peaks))[-1]
    assert (row["peak_fit"], row["peak_loop"]) == (0.25, 0.5)
    targets = {t["what"]: t for t in training_step._target_rows([], [row])}
    assert targets["INT4 native: peak at 64 tokens, x FP32 fit"]["met"] is True
    assert targets["INT4 native: peak at 64 tokens, x FP32 loop"]["met"] is False


def test_fresh_process_returns_the_result_and_reports_failure():
    assert harness.fresh_process("harness", "formatted", value=1.25, spec=".1f") == "1.2"
    with pytest.raises(RuntimeError, match="formatted"):
        harness.fresh_process("harness", "formatted", value=1.25, spec="nonsense")


def test_page_is_filled_between_its_markers_only():
    result = {
        "benchmark": "b",
        "command": "python -m benchmarks",
        "quick": False,
        "versions": {"omc": "0"},
        "processor": "chip",
        "cores": 2,
        "native_ops": True,
        "tables": [harness.Table("t", "title", [("x", "X", ".1f")], [{"x": 2.0}]).as_dict()],
    }
    page = "before\n<!-- begin b -->\nold\n<!-- end b -->\n<!-- begin c -->\nc\n<!-- end c -->\n"
    filled = tables.filled(page, {"b": result})
    assert "| X |\n| --: |\n| 2.0 |" in filled and "old" not in filled
    assert filled.startswith("before\n") and filled.endswith(
        "<!-- begin c -->\nc\n<!-- end c -->\n"
    )
    assert tables.filled(filled, {"b": result}) == filled


def test_page_shows_the_committed_json():
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert tables.filled(page, tables.load(DOCS / "bench")) == page, "run benchmarks.tables"
