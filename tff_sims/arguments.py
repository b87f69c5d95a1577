"""What the programs with argparse share: how mistakes are told, and types of arguments."""

import argparse

from tff_sims.command_line import fail


class Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line, as for every mistake of a user."""

    def error(self, message):
        """Ends the program with status 2."""
        fail(f"{message}; see --help.")


def from_to(least, most=None):
    """Type of a whole number within bounds; argparse tells the user what was expected.

    Args:
        least: Smallest that is taken.
        most: Largest, or None for no end.
    """
    expected = f"at least {least}" if most is None else f"{least} to {most}"

    def number(text):
        if not text.isdecimal() or int(text) < least or most is not None and int(text) > most:
            raise argparse.ArgumentTypeError(f"expected {expected}, but got {text!r}")
        return int(text)

    return number
