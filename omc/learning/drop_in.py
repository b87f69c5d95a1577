"""What TFF's `build_weighted_fed_avg` takes beside ours: served where it fits, else refused."""

import functools

import tensorflow as tf
import tensorflow_federated as tff

from omc.errors import InputError, InputTypeError

_INSTEAD = {
    "model_aggregator": "give aggregator=, such as omc.learning.aggregators.PrivateMean() for"
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


def weighted(client_work, weighting):
    """A client's work with the weight that its answer shall have.

    Args:
        client_work: Function with the signature of `client_works.train_client`.
        weighting: `tff.learning.ClientWeighting`, or None for its NUM_EXAMPLES.

    Returns:
        The function itself, or one whose weights are 1, and 0 where there is no answer as before.

    Raises:
        InputTypeError: `weighting` is another thing, a function too.
    """
    if weighting in (None, tff.learning.ClientWeighting.NUM_EXAMPLES):
        return client_work
    if weighting is not tff.learning.ClientWeighting.UNIFORM:
        tip = "a function of a client's metrics is not served: give client_work= to weigh answers."
        got = type(weighting).__name__
        raise InputTypeError("client_weighting", "a tff.learning.ClientWeighting", got, tip)
    return functools.partial(_uniform, client_work)


def _uniform(client_work, *arguments):
    result, metrics, counts = client_work(*arguments)
    weight = tf.sign(result.update_weight)
    return tff.learning.templates.ClientResult(result.update, weight), metrics, counts
