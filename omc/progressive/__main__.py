"""Splits a model into parts, shows parts, and puts them together again, without code.

python -m omc.progressive split model.keras INT4,INT8,FP32 --out parts
python -m omc.progressive show parts
python -m omc.progressive apply parts --out model.omc
"""

import argparse
import os
import sys

from omc.errors import OmcError
from omc.progressive import commands

_ARCHITECTURE = (
    "the model without its weights: a .json of model.to_json(), a .keras file, or module:function"
    " that returns the built model"
)


def main(arguments=None):
    """Runs one command; a mistake is one line on stderr and exit status 1.

    Args:
        arguments: List of str; None for those of the command line.
    """
    given = vars(_parser().parse_args(arguments))
    function = given.pop("function")
    try:
        function(**given)
        sys.stdout.flush()
    except OmcError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # Whoever read the table has enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; nothing is half-written.", file=sys.stderr)
        sys.exit(130)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """A mistake is one line, without the usage."""
        print(f"{message}; {self.prog} --help tells more.", file=sys.stderr)
        sys.exit(1)


def _parser():
    parser = _Parser(
        prog="python -m omc.progressive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    each = parser.add_subparsers(required=True, metavar="COMMAND")

    split = each.add_parser("split", help="a model into a base and deltas, in a folder")
    split.add_argument("model", help="a .keras file, or an .omc artifact with --architecture")
    split.add_argument("stages", help="formats of more and more bits, with commas: INT4,INT8,FP32")
    split.add_argument("--out", required=True, help="folder of the parts, made if it is not there")
    split.add_argument("--architecture", help=_ARCHITECTURE)
    split.add_argument(
        "--known",
        nargs="+",
        metavar="PART",
        help="parts, or their folder, that the receiver has of another version: what it holds"
        " already is not sent again",
    )
    split.add_argument(
        "--calibration",
        metavar="FILE",
        help="an .npy file of inputs, a few hundred: stages of few bits then come with BatchNorm"
        " statistics of their own",
    )
    split.set_defaults(function=commands.split)

    show = each.add_parser("show", help="what parts are, as a table")
    show.add_argument("parts", nargs="+", metavar="PART", help="part, or folder of parts")
    show.set_defaults(function=commands.show)

    apply = each.add_parser("apply", help="parts into a model, on disk")
    apply.add_argument(
        "parts",
        nargs="+",
        metavar="PART",
        help="parts in their order; or a folder, whose longest chain is taken and in which damaged"
        " parts are passed over",
    )
    apply.add_argument("--out", required=True, help="model.omc (packed) or model.keras (dense)")
    apply.add_argument("--stage", help="the last stage to apply; as many as there are by default")
    apply.add_argument(
        "--architecture", help=_ARCHITECTURE + "; by default the architecture.json beside the parts"
    )
    apply.set_defaults(function=commands.apply)
    return parser


if __name__ == "__main__":
    main()
