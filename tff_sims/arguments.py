"""Types of command-line arguments for argparse."""

import argparse


def from_to(least, most=None):
    """Type of a whole number within bounds; argparse tells the user what was expected.

    Args:
        least: Smallest that is taken.
        most: Largest, or None for no end.
    """
    expected = f"at least {least}" if most is None else f"{least} to {most}"

    def number(text):
        if not text.isdigit() or int(text) < least or most is not None and int(text) > most:
            raise argparse.ArgumentTypeError(f"expected {expected}, but got {text!r}")
        return int(text)

    return number
