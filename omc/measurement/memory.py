"""Exact bytes of a model's variables, one row a variable; what peaks are is in `peaks`."""

import dataclasses

import tensorflow as tf

from omc.errors import ModelError
from omc.keras import CompressedVariable, host
from omc.keras.deferral import is_deferred
from omc.keras.saving import is_wrapped
from omc.keras.wrapping import reason_of
from omc.policies import VariableSpec


@dataclasses.dataclass(frozen=True)
class MemoryRow:
    """One variable of a report.

    Attributes:
        name: Variable name.
        shape: Tuple of ints.
        format: Name of the format its bytes are in ("FP32", or the dtype where it is another).
        dense_bytes: Bytes of the plain variable.
        stored_bytes: Bytes of the buffers that exist now.
        reason: Why it is stored so.
        served: How layers got the dense value so far: "transient" (dense for one op at a time),
            "dense" (kept until backward), "" before the first call and for plain variables.
    """

    name: str
    shape: tuple
    format: str
    dense_bytes: int
    stored_bytes: int
    reason: str
    served: str = ""


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """What a model's variables take, as text (`str`), dict (`as_dict`) and picture (`plot`).

    Attributes:
        rows: Tuple of MemoryRow, one a variable.
    """

    rows: tuple

    @property
    def dense_bytes(self):
        """Bytes of all variables in a plain model."""
        return sum(row.dense_bytes for row in self.rows)

    @property
    def stored_bytes(self):
        """Bytes of all buffers that exist."""
        return sum(row.stored_bytes for row in self.rows)

    @property
    def ratio(self):
        """stored_bytes / dense_bytes; 1 for a model without variables."""
        return self.stored_bytes / self.dense_bytes if self.dense_bytes else 1.0

    def as_dict(self):
        """The report as plain dicts and numbers, for JSON."""
        return {
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "dense_bytes": self.dense_bytes,
            "stored_bytes": self.stored_bytes,
            "ratio": self.ratio,
        }

    def __str__(self):
        header = ("variable", "shape", "format", "dense bytes", "stored bytes", "served", "why")
        ratio = f"{self.ratio:.3f} of dense"
        total = ("total", "", "", self.dense_bytes, self.stored_bytes, "", ratio)
        lines = [header]
        lines += [
            (r.name, str(r.shape), r.format, r.dense_bytes, r.stored_bytes, r.served, r.reason)
            for r in self.rows
        ]
        lines.append(total)
        cells = [[f"{c:,}" if isinstance(c, int) else c for c in line] for line in lines]
        widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
        text = [
            "  ".join(
                cell.rjust(width) if column in (3, 4) else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths))
            ).rstrip()
            for line in cells
        ]
        rule = "-" * max(map(len, text))
        return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])

    def plot(self, path, most=30):
        """Draws dense and stored bytes of the largest variables as bars.

        Args:
            path: File to write, .png or .svg.
            most: Variables to show, the largest first.
        """
        from omc.measurement import plots  # matplotlib only where a picture is wanted

        plots.memory_bars(self, path, most)


def memory_report(model):
    """Report of what a model's variables take, one row a variable.

    Args:
        model: A `tf.keras.Model`, wrapped or not.

    Returns:
        `MemoryReport`.

    Raises:
        InputTypeError: `model` is no Keras model.
        ModelError: `model` is not built yet.
    """
    host.check_model(model)
    if not host.is_built(model) or is_deferred(model):
        state = "wrapped, but not built yet" if is_deferred(model) else "not built yet"
        raise ModelError(
            "model",
            "a built model",
            f"{model.name!r}, which is {state}",
            "call model.build(input_shape), or the model on a batch, first.",
        )
    otherwise = "added after the wrap" if is_wrapped(model) else "not wrapped"
    variables = host.variables_of(model)
    return MemoryReport(tuple(_row(v, reason_of(v, otherwise)) for v in variables))


def _row(variable, reason):
    spec = VariableSpec.of(variable)
    if isinstance(variable, CompressedVariable):
        fmt, stored = variable.codec.format.name, variable.nbytes
    else:
        fmt = "FP32" if spec.dtype == tf.float32 else spec.dtype.name
        stored = variable.read_value().numpy().nbytes
    served = getattr(variable, "served", None) or ""
    return MemoryRow(spec.name, spec.shape, fmt, spec.dense_bytes, stored, reason, served)
