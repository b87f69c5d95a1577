"""The demonstration under a memory limit: what it concludes, and a small one for real."""

import pytest

from benchmarks import memory_cap


@pytest.mark.parametrize(
    "status, wrote, steps, built, outcome",
    [
        (0, "", 3, True, "trained 3 steps"),
        (1, "x\nResourceExhaustedError: OOM when allocating\n", 0, True, "out of memory in step 1"),
        (-6, "what():  std::bad_alloc", 2, True, "out of memory in step 3"),
        (-11, "", 0, True, "out of memory in step 1, SIGSEGV"),
        (1, "MemoryError", 0, False, "out of memory while building"),
        (1, "ValueError: no\n", 0, True, "failed in step 1, exit status 1: ValueError: no"),
    ],
)
def test_outcomes_are_told_apart(status, wrote, steps, built, outcome):
    assert memory_cap._outcome(status, wrote, steps, built).startswith(outcome)


def test_a_process_that_waits_forever_is_out_of_memory():
    assert memory_cap._outcome(-9, "", 0, True, stuck=True).startswith("out of memory in step 1")


@pytest.mark.parametrize(
    "outcomes, status",
    [
        (("out of memory in step 1", "out of memory while building", "trained 2 steps"), 0),
        (("out of memory in step 1", "trained 2 steps", "trained 2 steps"), 1),
        (("trained 2 steps", "trained 2 steps", "trained 2 steps"), 1),
        (("out of memory in step 1",) * 3, 1),
        (("failed in step 1", "out of memory in step 1", "trained 2 steps"), 1),
    ],
)
def test_only_the_whole_claim_exits_with_0(monkeypatch, capsys, outcomes, status):
    left = iter(outcomes)
    monkeypatch.setattr(memory_cap, "_run", lambda *_: {"outcome": next(left)})
    assert memory_cap.main(["--limit=5"]) == status
    assert all(outcome in capsys.readouterr().out for outcome in outcomes[:1])


@pytest.mark.parametrize("arguments", [["--limit=0"], ["--steps=-1"], ["--size=huge"]])
def test_wrong_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        memory_cap.main(arguments)
    assert exit.value.code == 2
    assert arguments[0].split("=")[0] in capsys.readouterr().err
