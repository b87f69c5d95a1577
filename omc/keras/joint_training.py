"""The training step of a nested model: for each batch a step at every width, the highest first.

For a width of b bits, with all weights stored in h bits (Double Rounding, arXiv 2502.01199):

    forward    with weights read at b bits, activations quantized, the width's BatchNorm set
    backward   straight through both roundings to the stored weights, which the optimizer moves
    scales     s_b <- s_b - lr_b * g,   g = dL/ds_b / sqrt(n * p_b), clipped to -1 .. 1    (LSQ)

where s_b = s * 2^(h-b) is the step of the codes at b bits, n the number of weights and
p_b = 2^(b-1) - 1 (activations: 2^b - 1, of the mean over the examples). With ALRS,

    lr_b = eta_b * lr * (1 - mean_i |g_i|),   eta_b = 10^(-D/2), or 5 * 10^(-(D+1)/2) for odd D,

D = widths[0] - b, over all scales i of that width. (The paper prints lr - mean, which is negative
for usual gradients; the product is ours.) A scale moves by 0.2 % in a step at most (ours).

Weights are stored as codes under their scale and as nothing else, so a new scale means to round
them anew. That is done, stochastically, once the scale has moved by a hundredth (ours). Nor could a
scale at that pace follow weights that outgrow it, as those of a small initializer do. So it doubles
once the weights' mean square is above half of the range's, which no range that `omc.nest` chooses
comes to, while the scale's own gradient has it grow; and the range of activations doubles once
their root mean square is twice its end (ours).

Distillation (recursive, as Any-Precision DNN, arXiv 1911.07346): `omc.keras.distillation`.

With `switching` (HASB, `omc.keras.switching`) the steps of a batch are three: at the highest width,
at one drawn for each layer, at the lowest, each taught by the one before. In the second, eta_b and
p_b are those of each layer's own width, and the mean is over the scales of all of them.
"""

import contextlib

import tensorflow as tf

from omc import nested
from omc.errors import ModelError
from omc.keras import host
from omc.keras.adapters import training
from omc.keras.distillation import cross_entropy
from omc.keras.gradient import read
from omc.keras.switching import PASSES, Draw, SwitchedCodec, plain_codec

_MOST = 0.002  # Part by which a scale moves in a step at most.
_ROUNDED_ANEW = 0.01  # Part by which the weights' scale has moved when they are.
_OUTGROWN = 0.5  # Mean square of weights, as a part of their range's, above which it doubles.
_LEAST = 1e-8


def joint_train_step(model, state):
    """What stands in for a nested model's `train_step`.

    Args:
        model: A `tf.keras.Model`.
        state: Its `omc.keras.nesting.Nesting`.

    Returns:
        Function from a batch, as Keras gives it to `train_step`, to a dict of logs: the loss, mean
        over the widths, and the compiled metrics at the highest width. It raises `ModelError` where
        the model's class has a train_step of its own, whose meaning cannot be known.
    """

    def train_step(data):
        if type(model).train_step is not tf.keras.Model.train_step:
            raise ModelError(
                "model",
                "a model with Keras' own train_step, for fit()",
                f"{model.name!r}, whose class defines another",
                "take your own step inside omc.at_width(model, bits), for each width.",
            )
        x, y, weights = tf.keras.utils.unpack_x_y_sample_weight(data)
        # All slots at once: a width's step knows the variables of its set only.
        training.build_optimizer(model)
        before, teacher, last = state.bits, None, []
        try:
            for bits in _passes(model, state):
                with tf.control_dependencies(last):  # One width's step after the other's.
                    inputs = tf.nest.map_structure(tf.identity, x)
                with _using(state, bits):
                    outputs, last = _step(model, state, inputs, y, weights, teacher)
                if teacher is None:
                    logs = model.compute_metrics(x, y, outputs, weights)
                teacher = outputs
        finally:
            state.use(before)
        with tf.control_dependencies(last):
            _round_anew(state)
        logs["loss"] = training.logged_loss(model)
        return logs

    train_step.autograph_info__ = None  # AutoGraph leaves it alone, and converts the layers.
    return train_step


def steps_a_batch(options):
    """Steps that the optimizer takes for each batch, int.

    Args:
        options: `omc.keras.nesting.Options`.
    """
    return len(options.widths) if options.switching is None else PASSES


def _passes(model, state):
    """The widths of a batch's steps, in order: ints, and a `Draw` where each layer has its own."""
    widths, switching = state.options.widths, state.options.switching
    if switching is None:
        return widths
    return widths[0], switching.draw(widths, training.iterations(model)), widths[-1]


@contextlib.contextmanager
def _using(state, bits):
    if isinstance(bits, Draw):
        with bits.used_by(state):
            yield
    else:
        state.use(bits)
        yield


def _step(model, state, x, y, sample_weights, teacher):
    """A step at the width in use: (outputs, tensors that are there once it is done)."""
    trainable = {id(variable) for variable in host.trainable_variables(model)}
    learning = [variable for variable in state.variables if id(variable) in trainable]
    tables = [state.tables[id(v)] for v in learning if id(v) in state.tables]
    scales = [*tables, *(variable.learned_scale for variable in learning)]
    for variable in learning:
        if variable.input_quantizer is not None:
            variable.input_quantizer.squares = []
    with tf.GradientTape() as tape:
        tape.watch(scales)
        outputs = model(x, training=True)
        loss = training.loss_of(model, x, y, outputs, sample_weights)
        if teacher is not None and state.options.distillation:
            distance = cross_entropy(model, teacher, outputs, sample_weights)
            loss = tf.cast(loss, tf.float32)  # Of a 16 bit output it has 16 bits.
            loss = (1.0 - state.options.distillation) * loss + state.options.distillation * distance
    sources = [*model.trainable_variables, *scales]
    gradients = training.gradients_of(model, loss, sources, tape)
    pairs, count = list(zip(gradients, sources)), len(sources) - len(scales)
    moved = [pair for pair in pairs[:count] if pair[0] is not None]
    if training.accumulates(model):  # What is left out of a sum's last step would be lost.
        moved = [(tf.zeros(v.shape) if g is None else g, v) for g, v in pairs[:count]]
    # Decay, averages and constraints are of what is stored. And without `loss` to wait for, the end
    # of the data would be counted as a step.
    with state.all_bits(), tf.control_dependencies([loss]):
        model.optimizer.apply_gradients(moved)
    gradients = {id(v): g for g, v in pairs[count:] if g is not None}
    done = _move_scales(model, state, gradients)
    return outputs, [loss, *done]


def _move_scales(model, state, gradients):
    """Steps of the scales of the width in use; returns their operations or tensors."""
    highest, moves, sizes = state.options.widths[0], [], []
    rate = tf.convert_to_tensor(training.learning_rate(model), tf.float32)
    for variable in state.variables:
        gradient = gradients.get(id(variable.learned_scale))
        if gradient is None:
            continue
        codec = variable.codec
        dropped, levels = _of_codec(codec, _dropped), _of_codec(codec, _levels)
        scale, _ = codec.transform_of(read(variable.buffer))
        step = scale * dropped
        size = _clipped(gradient / dropped / (codec.count * levels) ** 0.5)
        moves.append((variable, size, step))
        sizes.append(size)
    inputs = []
    for variable in state.variables:
        table = state.tables.get(id(variable))
        gradient = None if table is None else gradients.get(id(table))
        if gradient is None:
            continue
        quantizer = variable.input_quantizer
        size = _clipped(gradient[quantizer.row] / quantizer.levels**0.5)
        inputs.append((variable, table, size))
        sizes.append(size[0])
    if not sizes:
        return []

    def own_rate(variable):
        if not state.options.alrs:
            return rate
        eta = _of_codec(variable.codec, lambda codec: _eta(highest - width_of(codec)))
        return eta * rate * calm

    calm = 1.0 - tf.reduce_mean(tf.abs(tf.stack(sizes)))
    done = []
    for variable, size, step in moves:
        part = tf.clip_by_value(own_rate(variable) * size / step, -_MOST, _MOST)
        done.append(variable.learned_scale.assign_sub(part, read_value=False))
    for variable, table, size in inputs:
        row, own = variable.input_quantizer.row, own_rate(variable)
        scale, offset = tf.unstack(table.read_value()[row])
        limit = _MOST * scale
        moved = tf.stack(
            [
                tf.maximum(scale - tf.clip_by_value(own * size[0], -limit, limit), _LEAST),
                offset - tf.clip_by_value(own * size[1], -limit, limit),
            ]
        )
        moved *= tf.where(variable.input_quantizer.outgrown(), 2.0, 1.0)
        rows = tf.tensor_scatter_nd_update(table.read_value(), [[row]], [moved])
        done.append(table.assign(rows, read_value=False))
    return [operation for operation in done if operation is not None]


def _of_codec(codec, function):
    """A number that depends on the width: a float, or a tensor where that is drawn."""
    return codec.lookup(function) if isinstance(codec, SwitchedCodec) else function(codec)


def _dropped(codec):
    return 2.0**codec.format.feedback_bits


def _levels(codec):
    return max(codec.format.max / _dropped(codec), 1.0)


def width_of(codec):
    """Bits that a codec of a nested model reads, int."""
    return codec.format.bits - codec.format.feedback_bits


def _round_anew(state):
    """Gives the weights whose scale has moved enough their new scale, one after the other."""
    last = []
    for variable in state.variables:
        with tf.control_dependencies(last):
            moved = variable.learned_scale.read_value()
        outgrown = tf.cond(moved > 0.0, lambda v=variable: _outgrown(v), lambda: tf.constant(False))
        last = [
            tf.cond(
                outgrown | (tf.abs(moved) > _ROUNDED_ANEW),
                lambda v=variable, m=moved, o=outgrown: _rescale(v, m, o),
                lambda: tf.constant(False),
            )
        ]


def _outgrown(variable):
    """Whether a variable's stored weights fill their range as only those do that are cut off."""
    codec = nested.full_codec(plain_codec(variable))
    buffer = read(variable.buffer)
    scale, _ = codec.transform_of(buffer)
    square = 2.0 * tf.nn.l2_loss(codec.decode(buffer)) / codec.count
    return square > _OUTGROWN * (codec.format.limit * scale) ** 2


def _rescale(variable, moved, outgrown):
    variable.rescale(tf.exp(moved) * tf.where(outgrown, 2.0, 1.0))
    variable.learned_scale.assign(0.0)
    return tf.constant(True)


def _eta(difference):
    if difference % 2:
        return 5.0 * 10.0 ** (-(difference + 1) / 2)
    return 10.0 ** (-difference / 2)


def _clipped(gradient):
    gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
    return tf.clip_by_value(gradient, -1.0, 1.0)
