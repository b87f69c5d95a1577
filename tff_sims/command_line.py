"""What the programs with absl flags share: flags that do not parse, and how a program ends."""

import sys

from absl import app, flags


def fail(message, status=2):
    """Ends the program with one line on stderr."""
    print(message, file=sys.stderr)
    sys.exit(status)


def run(main, define_flags):
    """Runs a program: flags that do not parse end in one line and exit status 2, too.

    Args:
        main: Function of the command line's words, once the flags are parsed.
        define_flags: Function that defines the flags.
    """
    define_flags()
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from here.", status=130)


def _parse(argv):
    try:
        return app.parse_flags_with_usage(argv) if _wants_help(argv) else flags.FLAGS(argv)
    except flags.Error as error:
        return fail(str(error).replace("\n", " "))


def _wants_help(argv):
    return any(argument.lstrip("-").startswith("help") for argument in argv[1:])
