"""What a federation consists of: the parts that the composed and the controlled process share."""

import dataclasses
import functools
from typing import Any, Callable

import tensorflow as tf
import tensorflow_federated as tff

from omc.errors import InputError, InputTypeError
from omc.learning import aggregators, downlinks, drop_in, models, uplinks
from omc.learning.aggregators import Aggregator
from omc.learning.client_works import round_seed, train_client
from omc.learning.downlinks import Downlink
from omc.learning.local_optimizer import LocalOptimizer
from omc.learning.models import ModelPlan
from omc.learning.runtime import workers_have_ops
from omc.learning.uplinks import Uplink


@dataclasses.dataclass(frozen=True)
class Federation:
    """The parts of federated averaging on compressed weights, and the types between them.

    Attributes:
        plan: `ModelPlan`: the model's variables, their formats, the clients' widths.
        downlink: `Downlink`: what a client gets.
        uplink: `Uplink`: what it answers.
        aggregator: `Aggregator`: what the server makes of the answers.
        client_work: What a client does in between, a function with the signature of `train_client`.
        local_optimizer: `LocalOptimizer` of the clients.
        server_optimizer: `tff.learning.optimizers.Optimizer`.
        metrics_aggregation: Federated computation over the clients' unfinalized metrics.
        data_type: tff.SequenceType of a client's data.
    """

    plan: ModelPlan
    downlink: Downlink
    uplink: Uplink
    aggregator: Aggregator
    client_work: Callable
    local_optimizer: LocalOptimizer
    server_optimizer: tff.learning.optimizers.Optimizer
    metrics_aggregation: Any
    data_type: tff.SequenceType

    @classmethod
    def of(
        cls,
        model_fn,
        policy,
        client_optimizer_fn,
        server_optimizer_fn,
        uplink,
        metrics_aggregator,
        widths,
        downlink,
        aggregator,
        client_work,
        client_weighting=None,
    ):
        """Checks all arguments of `build_weighted_fed_avg` and makes the parts of them.

        Raises:
            InputTypeError, InputError, FormatError: As `build_weighted_fed_avg`.
        """
        uplink, downlink = uplinks.resolve(uplink), downlinks.resolve(downlink)
        aggregator = drop_in.weighted(aggregators.resolve(aggregator), client_weighting)
        if client_work is not None and not callable(client_work):
            tip = "with the signature of omc.learning.client_works.train_client."
            raise InputTypeError("client_work", "a function", client_work, tip)
        client_optimizer = _checked("client_optimizer_fn", client_optimizer_fn, 0.1)
        server_optimizer = _checked("server_optimizer_fn", server_optimizer_fn, 1.0)
        plan = ModelPlan.of(model_fn, policy, widths)
        for link in (downlink, uplink):
            link.check(plan.policy, plan.widths)
        with tf.Graph().as_default():
            model = model_fn()
            aggregate = metrics_aggregator or tff.learning.metrics.sum_then_finalize
            metrics_aggregation = aggregate(model.metric_finalizers())
            data_type = tff.SequenceType(tff.types.tensorflow_to_type(model.input_spec))
        aggregator.check(uplink, plan.widths)
        return cls(
            plan,
            downlink,
            uplink,
            aggregator,
            client_work or train_client,
            LocalOptimizer(client_optimizer),
            server_optimizer,
            metrics_aggregation,
            data_type,
        )

    def sound_metrics(self, metrics):
        """A client's metrics, or zeros where one of them is NaN or infinite.

        Args:
            metrics: Structure of tensors.
        """
        floats = [value for value in tf.nest.flatten(metrics) if value.dtype.is_floating]
        finite = [tf.reduce_all(tf.math.is_finite(value)) for value in floats]
        sound = tf.reduce_all(tf.stack([tf.constant(True), *finite]))
        return tf.nest.map_structure(lambda v: tf.where(sound, v, tf.zeros_like(v)), metrics)

    def check_workers(self):
        """Refuses coded links where the workers of the current runtime cannot code.

        Raises:
            InputError: `downlink` or `uplink` needs the native ops.
        """
        for argument, link in (("downlink", self.downlink), ("uplink", self.uplink)):
            if link.needs_native_ops and not workers_have_ops():
                expected = f"workers with OMC's native ops for {link}"
                tip = "build the process inside of local_runtime(); make setup compiles the ops."
                raise InputError(argument, expected, "none", tip)

    @property
    def payload_type(self):
        """TFF type of what a client gets."""
        return tff.types.tensorflow_to_type(models.payload(self.downlink.specs(self.plan)))

    @functools.cached_property
    def allocation_type(self):
        """TFF type of what the server knows of the clients' widths."""
        return tff.tensorflow.computation(self.plan.initial_allocation).type_signature.result

    @property
    def answer_specs(self):
        """tf.TensorSpecs of what a client sends, a list."""
        further = [self.plan.widths.report_spec(self.plan)] if self.plan.allocates else []
        stamp = tf.TensorSpec([], tf.int32)  # The round that it was made for.
        return [*self.uplink.specs(self.plan.trainable), *further, stamp]

    @property
    def sum_specs(self):
        """Specs (with shape and dtype) of what a mean is taken of, a list."""
        specs = [variable.spec for variable in self.plan.trainable]
        if self.plan.allocates:
            specs.append(tf.TensorSpec(self.plan.widths.report_spec(self.plan).shape, tf.float32))
        return specs

    def common_seed(self, round_number):
        """Seed of what all clients of a round draw alike, int32 [2]."""
        return round_seed(self.plan, round_number)

    def reallocate(self, allocation, mean, weights):
        """What the server knows of the clients' widths after a round; of widths that allocate.

        Args:
            allocation: The same from before, as of `ModelPlan.initial_allocation`.
            mean: As in `step`.
            weights: The server's weights after `step`, one tensor a variable.
        """
        return self.plan.widths.next(self.plan, allocation, list(mean)[-1], list(weights))

    def initial_optimizer_state(self):
        """State of the server's optimizer before the first round."""
        return self.server_optimizer.initialize(
            [tf.TensorSpec(v.shape, v.spec.dtype) for v in self.plan.trainable]
        )

    def step(self, weights, optimizer_state, mean, total_weight):
        """The server's step, which nothing comes of where the mean is not finite.

        Nor where nobody was heard, unless the aggregator always steps.

        Args:
            weights: The server's trainable weights, a list.
            optimizer_state: As of `initial_optimizer_state`.
            mean: The mean of what was read of the clients, one tensor a weight, and maybe more.
            total_weight: float32 scalar, of those who were heard.

        Returns:
            (weights, optimizer state, int32 scalar: 1 where the mean was not finite).
        """
        gradient = self._pseudo_gradient(weights, mean, total_weight)
        finite = tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(g)) for g in gradient]))
        heard = tf.constant(self.aggregator.always_steps) | (total_weight > 0.0)
        before = tf.nest.map_structure(tf.convert_to_tensor, (list(weights), optimizer_state))

        def move():
            state, moved = self.server_optimizer.next(before[1], before[0], gradient)
            return tf.nest.flatten((list(moved), state))

        after = tf.cond(finite & heard, move, lambda: tf.nest.flatten(before))
        return *tf.nest.pack_sequence_as(before, after), tf.cast(~finite, tf.int32)

    def _pseudo_gradient(self, weights, mean, total_weight):
        """What the server's optimizer is given for a gradient, a list of float32 tensors."""
        if self.uplink.averages == "changes":
            return list(mean)[: len(weights)]
        return [tf.where(total_weight > 0.0, w - m, 0.0) for w, m in zip(weights, mean)]


def _checked(argument, optimizer, learning_rate):
    """The optimizer, or SGD with this rate for None."""
    if optimizer is None:
        return tff.learning.optimizers.build_sgdm(learning_rate)
    if not isinstance(optimizer, tff.learning.optimizers.Optimizer):
        raise InputTypeError(
            argument,
            "a tff.learning.optimizers.Optimizer",
            type(optimizer).__name__,
            "for example tff.learning.optimizers.build_sgdm(0.1).",
        )
    return optimizer
