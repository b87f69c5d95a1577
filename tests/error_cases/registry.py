"""The cases of tests/test_errors.py, by the name of their row in docs/errors.md."""

CASES = {}


def case(name):
    """Registers a function of a fresh folder, which makes the mistake, as the test of a row.

    What the mistake needs of files goes into `folder / "given"`.
    """

    def register(function):
        assert name not in CASES, f"two cases for {name!r}"
        CASES[name] = function
        return function

    return register
