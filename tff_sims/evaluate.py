"""Evaluates the weights that a finished run has left, on the held-out data of any domain.

  python -m tff_sims.evaluate --task=speech --domain=noisy --init=runs/clean --out=runs/before

Nothing is trained. Into --out goes summary.json, with the task's metrics of the float32 weights.
"""

import argparse
import json
import os
import pathlib
import shlex
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from omc.errors import OmcError  # noqa: E402
from tff_sims.arguments import Parser, from_to  # noqa: E402
from tff_sims.command_line import fail  # noqa: E402
from tff_sims.results import load_weights, versions, write_whole  # noqa: E402
from tff_sims.settings import Settings, as_line, check  # noqa: E402


def evaluate_weights(settings):
    """Metrics of the weights in `settings.init` on the task of `settings`.

    Args:
        settings: `Settings`, already checked, with `init`.

    Returns:
        Dict of floats, as of `Task.evaluate`.

    Raises:
        InputError: The weights are not there, or fit another model.
    """
    task = settings.make_task(settings.seed)
    model = task.build_model()
    load_weights(settings.init, settings.seed, model)
    return task.evaluate(model)


def main(arguments=None):
    """Runs the command line.

    Args:
        arguments: List of str; None for those of the command line.
    """
    parser = Parser(
        prog="python -m tff_sims.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--task", default=Settings.task, help="what the run has learnt")
    parser.add_argument("--domain", help="part of the task's world; the task's own by default")
    parser.add_argument(
        "--seed", type=from_to(0, 2**31 - 1), default=0, help="seed of the run and of the task"
    )
    parser.add_argument("--init", required=True, help="folder of the finished run")
    parser.add_argument("--out", required=True, help="folder for summary.json")
    given = vars(parser.parse_args(arguments))
    out = given.pop("out")
    settings = Settings(**given, clients_per_round=1)
    problem = check(settings, out)
    if problem:
        fail(problem)
    try:
        metrics = evaluate_weights(settings)
    except OmcError as error:
        fail(as_line(error))
    command = shlex.join(["python", "-m", "tff_sims.evaluate", *(arguments or sys.argv[1:])])
    summary = {**given, **metrics, "versions": versions(), "command": command}
    text = json.dumps(summary, indent=2) + "\n"
    write_whole(pathlib.Path(out) / "summary.json", text.encode())
    print(f"held-out accuracy {metrics['accuracy']:.3f}; results in {out}")


if __name__ == "__main__":
    main()
