"""Short forms: the parts of a federation can be given by name or as objects."""

from omc.errors import InputError, InputTypeError


def resolve(argument, given, named, kind, example):
    """The part of a short form, made with its defaults, or the object itself.

    Args:
        argument: What it was given as, for messages.
        given: A name or an object.
        named: Dict of name -> class.
        kind: Class of all such parts.
        example: An object, as one would write it.

    Raises:
        InputError: A name that is none of `named`.
        InputTypeError: Neither a name nor a `kind`.
    """
    if isinstance(given, str):
        if given not in named:
            raise InputError(argument, f"one of {tuple(named)}", given)
        return named[given]()
    if not isinstance(given, kind):
        tip = f"for example one of {tuple(named)}, or {example}."
        expected = f"a name or an omc.learning.{argument}s.{kind.__name__}"
        raise InputTypeError(argument, expected, given, tip)
    return given
