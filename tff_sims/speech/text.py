"""What is said: the vocabulary, a small grammar, and words as labels."""

from omc.errors import InputError

_SLOTS = {
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "verb": ("open", "close", "start", "stop"),
    "thing": ("door", "window", "light", "radio"),
    "colour": ("red", "green", "blue"),
    "way": ("up", "down", "left", "right"),
    "state": ("on", "off"),
    "answer": ("yes", "no"),
}
# Written with braces around what is drawn.
_PATTERNS = (
    "{digit} {digit}",
    "{digit} {digit} {digit}",
    "{digit} {digit} {digit} {digit}",
    "turn {thing} {state}",
    "turn {colour} {thing} {state}",
    "go {way}",
    "go {way} {digit}",
    "{verb} {thing} {digit}",
    "{verb} {colour} {thing}",
    "{answer} please",
)

VOCABULARY = tuple(sorted({*sum(_SLOTS.values(), ()), "turn", "go", "please"}))
"""All words of the sentences; a word's label is its index."""

KEYWORDS = (*_SLOTS["digit"], *_SLOTS["way"], *_SLOTS["state"], *_SLOTS["answer"], "go", "stop")
"""The words of the keyword task; the class is the index."""

MAX_WORDS = max(len(pattern.split()) for pattern in _PATTERNS)
"""Most words of a sentence."""


def sentence(rng):
    """Draws a sentence of two to `MAX_WORDS` words from the grammar: a pattern, then its words.

    Args:
        rng: numpy Generator.
    """
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    words = []
    for token in pattern.split():
        choices = _SLOTS[token[1:-1]] if token.startswith("{") else (token,)
        words.append(choices[rng.integers(len(choices))])
    return " ".join(words)


def labels(transcript, vocabulary=VOCABULARY):
    """Indices of a transcript's words.

    Args:
        transcript: Words with blanks between, in the vocabulary's spelling.
        vocabulary: Tuple of words.

    Returns:
        List of ints.

    Raises:
        InputError: A word that the vocabulary does not have.
    """
    numbers = {word: number for number, word in enumerate(vocabulary)}
    for word in transcript.split():
        if word not in numbers:
            raise InputError("transcript", "words of the vocabulary", f"{word!r} in {transcript!r}")
    return [numbers[word] for word in transcript.split()]
