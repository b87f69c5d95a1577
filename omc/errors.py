"""Typed errors: every one names the argument, what was expected and what came.

All derive from `OmcError`; each also derives from the built-in error that a caller who does not
know OMC would catch (`ValueError`, `TypeError`).
"""


class OmcError(Exception):
    """Base of all errors that OMC raises for a user's mistake.

    Args:
        argument: Name of the offending argument, as the caller wrote it.
        expected: What is allowed.
        got: What came instead; shown with `repr` unless it is already a string.
        tip: One sentence on how to mend it (optional).
    """

    # AutoGraph, which fit() runs under, and a layer's call then raise it as it is.
    ag_pass_through = True
    _keras_call_info_injected = True

    def __init__(self, argument, expected, got, tip=""):
        self.argument = argument
        self.expected = expected
        self.got = got
        self.tip = tip
        got_text = got if isinstance(got, str) else repr(got)
        text = f"`{argument}`: expected {expected}, but got {got_text}."
        super().__init__(f"{text} Tip: {tip}" if tip else text)


class FormatError(OmcError, ValueError):
    """A number format that OMC does not have."""


class InputError(OmcError, ValueError):
    """An argument outside its allowed values: NaN weights, a fraction above 1, zero rounds."""


class InputTypeError(OmcError, TypeError):
    """An argument of the wrong type: a string where a policy is wanted."""


class ModelError(OmcError, ValueError):
    """A model in the wrong state: unbuilt, already wrapped, or not wrapped where it has to be."""


class KerasError(OmcError, ImportError):
    """A TensorFlow whose Keras OMC cannot work with; raised by `import omc`."""


class ArtifactError(OmcError, ValueError):
    """A file that cannot be written or read, is no whole artifact, or is another model's."""


class CodingError(OmcError, ValueError):
    """Coded bytes that are damaged, too large or newer, or that were coded given something else."""


class WorkerError(OmcError, RuntimeError):
    """A TFF worker that does not answer, died, or could not do what it was asked."""
