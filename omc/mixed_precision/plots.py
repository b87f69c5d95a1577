"""Picture of an allocation, drawn with matplotlib without a display."""

import pathlib

from omc import checks
from omc.errors import InputError, InputTypeError
from omc.formats import Format


def width_bars(allocation, path, most):
    """Draws bits a weight of each allocated variable, and its share of the stored bytes.

    Args:
        allocation: `Allocation`.
        path: File to write.
        most: Variables to show.

    Raises:
        InputTypeError, InputError: As `Allocation.plot`.
    """
    from matplotlib.figure import Figure  # Without pyplot: no window, no backend to choose.

    most = checks.integer("most", most, "an integer of 1 or more", 1)
    rows = [row for row in allocation.rows if row.loss is not None][:most]
    figure = Figure(figsize=(8, 1.4 + 0.28 * len(rows)))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    places = list(range(len(rows)))
    bits = [Format.parse(row.format).bits for row in rows]
    left.barh(places, bits, color="#1f6feb")
    for place, row, width in zip(places, rows, bits):
        left.annotate(row.format, (width, place), (3, 0), textcoords="offset points", va="center")
    left.set_yticks(places, [row.name for row in rows], fontsize=8)
    left.invert_yaxis()
    left.set_xlim(0, 1.25 * max(bits))
    left.set_xlabel("bits a weight")
    right.barh(places, [row.stored_bytes / 1e3 for row in rows], color="#b0b7c3")
    right.set_xlabel("kilobytes stored")
    left.set_title(f"{allocation.strategy}, {allocation.sensitivity}", loc="left", fontsize=10)
    right.set_title(f"{allocation.stored_bytes:,} bytes in all", loc="left", fontsize=10)
    for axes in (left, right):
        axes.grid(True, axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    kinds = sorted(figure.canvas.get_supported_filetypes())
    try:
        kind = pathlib.Path(path).suffix[1:].lower()
    except TypeError as error:
        raise InputTypeError("path", "a path, str or os.PathLike", path) from error
    if kind not in kinds:
        raise InputError("path", f"a file that ends with one of {', '.join(kinds)}", str(path))
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        got = f"{str(path)!r}: {error.strerror or error}"
        raise InputError("path", "a file that can be written", got) from error
