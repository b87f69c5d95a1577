"""Widths a layer in central training: drawn (HASB), or allocated before it or after it."""

import tensorflow as tf

import omc
from omc.keras.joint_training import width_of
from omc.keras.nesting import checked_nesting
from tff_sims.central_settings import STORED_BITS

SENSITIVITIES = ("hessian_error", "error", "hasb_printed", "hasb_code")
"""What an allocation is to make least: ours, ours without a Hessian, and HASB's two."""

_EXAMPLES = 256  # Training examples of the Hessian.
_PROBES = 8
_LOSS = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def switching(model, settings, data):
    """The `omc.keras.Switching` of a run, from the weights that it starts from; None without.

    Args:
        model: A plain model.
        settings: `CentralSettings`, complete.
        data: `tff_sims.central_data.Data`.
    """
    if not settings.switching:
        return None
    return omc.mixed_precision.hasb(
        model,
        [_batch(data, settings)],
        epochs=max(settings.epochs, 1),
        batches=data.steps(settings.batch_size),
        loss=_LOSS,
        probes=_PROBES,
        seed=settings.seed,
    )


def allocator(model, settings, data):
    """The `omc.mixed_precision.Allocator` of a trained model.

    Args:
        model: A plain model; it is left as it is.
        settings: `CentralSettings`, complete.
        data: `tff_sims.central_data.Data`, for Hessian and losses.
    """
    return omc.mixed_precision.Allocator(
        model,
        policy=omc.Policy(f"INT{STORED_BITS}", seed=settings.seed),
        data=[_batch(data, settings)],
        loss=_LOSS,
        probes=_PROBES,
        seed=settings.seed,
        coded_nbytes=lambda buffer, codec: len(omc.coding.encode_buffer(buffer, codec)),
    )


class Stored:
    """Models that store a width a layer, as a run's strategy and sensitivity allocate them."""

    def __init__(self, model, settings, data):
        """Measures what each width would cost.

        Args:
            model: A plain model with the weights that the allocation is for; it is left as it is.
            settings: `CentralSettings`, complete, of method allocated.
            data: `tff_sims.central_data.Data`.
        """
        self._allocator = allocator(model, settings, data)
        self._strategy, self._sensitivity = settings.strategy or "exact", settings.sensitivity

    def wrap(self, model, budget):
        """Wraps a plain model of the same weights in what a budget gives.

        Returns:
            Dict with keys budget, formats (of each variable), bits (their average, a weight) and
            nbytes (of the model).
        """
        allocation = self._allocator.allocate(
            bits=budget, strategy=self._strategy, sensitivity=self._sensitivity
        )
        omc.wrap(model, allocation)
        return {
            "budget": budget,
            "formats": {name.split(":")[0]: fmt for name, fmt in allocation.widths.items()},
            "bits": allocation.budgets[0].used,
            "nbytes": omc.memory_report(model).stored_bytes,
        }


def measured(model, settings, data, sample):
    """What each budget and sensitivity gives, and the model of those widths without training.

    BatchNorm sets are left with the statistics of the last allocation.

    Args:
        model: A trained nested model, calibrated.
        settings: `CentralSettings`, complete.
        data: `tff_sims.central_data.Data`.
        sample: Inputs for BatchNorm statistics.

    Returns:
        List of dicts with keys budget, sensitivity, widths (of each nested variable), bits (their
        average, a weight), accuracy (with the statistics of each width alone), accuracy_calibrated
        (with those of the allocation) and nbytes (of a device that has it alone).
    """
    allocator = omc.mixed_precision.Allocator(
        model, data=[_batch(data, settings)], loss=_LOSS, probes=_PROBES, seed=settings.seed
    )
    found = []
    for limit in settings.limits:
        for sensitivity in SENSITIVITIES:
            allocation = allocator.allocate(bits=limit, sensitivity=sensitivity)
            omc.nested.switch(model, allocation)
            found.append(_row(model, limit, sensitivity, allocation))
            found[-1]["accuracy"] = data.task.evaluate(model)["accuracy"]
    # After all, for the next allocation would be read with what this one leaves.
    accuracies = {}
    for row in found:
        widths = tuple(row["widths"].values())
        if widths not in accuracies:
            omc.calibrate(model, sample, row["widths"])
            omc.nested.switch(model, row["widths"])
            accuracies[widths] = data.task.evaluate(model)["accuracy"]
        row["accuracy_calibrated"] = accuracies[widths]
    return found


def _row(model, limit, sensitivity, allocation):
    variables = checked_nesting(model).variables
    return {
        "budget": limit,
        "sensitivity": sensitivity,
        "widths": {v.name.split(":")[0]: width_of(v.codec) for v in variables},
        "bits": allocation.budgets[0].used,
        "nbytes": stored_at(model),
    }


def _batch(data, settings):
    """(inputs, labels) of some training examples, the same for every run of a seed."""
    return data.labelled(_EXAMPLES, settings.seed)


def stored_at(model, bits=None):
    """Bytes of what a device keeps that has one width of a nested model alone, or those in use.

    Codes as `omc.nested.extract` makes them, one BatchNorm set, one row of each table of quantizers
    and the rest as it is; the lengths of the buffers that then exist.

    Args:
        model: A nested model.
        bits: A prepared width; None for those that its layers are read at now.
    """
    state = checked_nesting(model)
    nested = {id(v): bits or width_of(v.codec) for v in state.variables}
    tables = {id(table) for table in state.tables.values()}
    added = {id(v) for sets in state.batchnorms for v in sets.added_variables()}
    total = 0
    for variable in {id(v): v for v in model.variables}.values():
        if id(variable) in nested:
            value = omc.CompressedTensor(variable.buffer.read_value(), variable.codec)
            total += omc.nested.extract(value, nested[id(variable)]).nbytes
        elif id(variable) in tables:
            total += variable[0].numpy().nbytes
        elif id(variable) not in added:
            total += getattr(variable, "buffer", variable).numpy().nbytes
    return total
