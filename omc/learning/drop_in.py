"""What TFF's `build_weighted_fed_avg` takes beside ours: served where it fits, else refused."""

import dataclasses

import tensorflow_federated as tff

from omc.errors import InputError, InputTypeError
from omc.learning.aggregators import Mean

_INSTEAD = {
    "model_aggregator": "give aggregator=, such as omc.learning.aggregators.PrivateMean for"
    " differential privacy: answers are codes, which TFF's aggregators would add up as numbers.",
    "model_distributor": "give downlink=, which decides what clients get.",
    "use_experimental_simulation_loop": "leave it out: clients loop over their batches as it is.",
}


def check(**arguments):
    """Refuses arguments of TFF's that do not go with codes.

    Args:
        **arguments: Those that `_INSTEAD` names, with their values; None and False are as in TFF.

    Raises:
        InputError: One is given.
    """
    for name, value in arguments.items():
        if value is not None and value is not False:
            expected = "none, for OMC's processes send and add up codes"
            raise InputError(name, expected, type(value).__name__, _INSTEAD[name])


def weighted(aggregator, weighting):
    """An aggregator that weighs clients as TFF's argument says.

    Args:
        aggregator: `omc.learning.aggregators.Aggregator`.
        weighting: `tff.learning.ClientWeighting`, or None for what the aggregator does.

    Returns:
        The aggregator, or a mean that counts every client once. The server sees to that: what a
        client says of its examples does not matter then.

    Raises:
        InputTypeError: `weighting` is another thing, a function too.
    """
    if weighting in (None, tff.learning.ClientWeighting.NUM_EXAMPLES):
        return aggregator
    if weighting is not tff.learning.ClientWeighting.UNIFORM:
        tip = "a function of a client's metrics is not served: give client_work= to weigh answers."
        got = type(weighting).__name__
        raise InputTypeError("client_weighting", "a tff.learning.ClientWeighting", got, tip)
    is_mean = isinstance(aggregator, Mean)
    return dataclasses.replace(aggregator, weighting="uniform") if is_mean else aggregator
