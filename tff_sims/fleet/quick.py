"""Two small runs, for a look at a fleet without runs of one's own."""

import shlex
import subprocess
import sys

RUNS = {
    "fp32": ("--method=fp32",),
    "omc": ("--method=omc", "--format=S1E3M7", "--fraction=0.9"),
}
_COMMON = ("--task=digits", "--noclient_memory")


def make(out, rounds):
    """Runs digits with FP32 and with OMC by `tff_sims.simulate`, or what is left of it.

    Args:
        out: pathlib.Path of the folder for the runs' folders.
        rounds: Rounds of each.

    Returns:
        List of the runs' folders; None where one failed, which has then said why.
    """
    folders = []
    for name, flags in RUNS.items():
        folders.append(out / name)
        arguments = [*_COMMON, f"--rounds={rounds}", *flags, f"--out={folders[-1]}"]
        print(shlex.join(["python", "-m", "tff_sims.simulate", *arguments]), flush=True)
        command = [sys.executable, "-m", "tff_sims.simulate", *arguments]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            return None
    return folders
