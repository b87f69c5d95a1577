"""HASB's sensitivities (arXiv 2502.01199): traces of the Hessian decide how widths are drawn."""

from omc.errors import ModelError
from omc.keras import Switching, wrapping
from omc.keras.nesting import nesting_of
from omc.keras.wrapping import variables_of
from omc.mixed_precision.hutchinson import traces
from omc.policies import VariableSpec, is_matrix


def hasb(model, data, *, epochs, batches, loss=None, probes=16, seed=0):
    """What `omc.nest(model, ..., switching=)` needs to train every layer at widths of its own.

    >>> switching = omc.mixed_precision.hasb(model, [(x, y)], epochs=10, batches=100, loss=loss)
    >>> omc.nest(model, bits=(8, 6, 4, 2), calibration=x, switching=switching)

    A weight matrix is sensitive where its trace is at least the mean over those that change their
    width; see `omc.keras.switching`.

    Args:
        model: A built `tf.keras.Model`, trained, before `nest`; it is left as it is.
        data: Batches for the Hessian, see `omc.mixed_precision.traces`.
        epochs: Epochs that `fit` is to take in all.
        batches: Batches of an epoch.
        loss: Loss for the Hessian; None for the compiled one.
        probes: Probes for the Hessian.
        seed: Seed of the probes and of the draws.

    Returns:
        `omc.keras.Switching` with a trace for each trainable weight matrix.

    Raises:
        InputTypeError: `model` is no Keras model, another argument of the wrong type.
        InputError: As `traces`; `epochs` or `batches` below 1.
        ModelError: The model is not built, or nested already.
    """
    wrapping.check_built(model)
    if nesting_of(model) is not None:
        tip = "omc.nest(model, ..., switching=...) comes after it."
        raise ModelError("model", "a model that is not nested yet", f"{model.name!r}", tip)
    Switching({}, epochs, batches, seed)  # What is wrong with these shows before the work.
    specs = [(v, VariableSpec.of(v)) for v in variables_of(model)]
    matrices = [v for v, spec in specs if is_matrix(spec) and spec.trainable]
    found = traces(model, matrices, data, loss, probes, seed)
    named = {VariableSpec.of(v).name: trace for v, trace in zip(matrices, found)}
    return Switching(named, epochs, batches, seed)
