"""export(): a SavedModel for inference whose variables are the packed buffers."""

import contextlib
import inspect
import os
import re

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import fingerprinting_utils
from tensorflow.python.trackable.resource import CapturableResource

from omc import artifacts, kernels
from omc.errors import ModelError
from omc.keras import host
from omc.keras.saving import check_wrapped, stored_order
from omc.keras.variable import CompressedVariable


def export(model, path):
    """Writes a wrapped model as a SavedModel that stays packed on disk and in memory.

    Its signature "serving_default" decodes each weight inside the graph, where a layer needs it,
    in plain TensorFlow ops: it serves wherever TensorFlow does, without OMC. Batch sizes are free.
    Inputs are named as the model's inputs are, outputs as `model.output_names`; the structure is
    flattened. It is for inference: it cannot be trained further.

    Args:
        model: A model that `wrap` or `load` has wrapped. One without an `input_shape` of its own
            (a subclassed model) must have been called on a batch.
        path: Folder to make, str or os.PathLike; it must not exist yet, or be empty.

    Raises:
        InputTypeError: `model` is no Keras model, or `path` no path.
        ModelError: The model is not wrapped, or its inputs are unknown.
        ArtifactError: The folder exists and is not empty, or cannot be written; nothing is left.
    """
    check_wrapped(model)
    path = artifacts.checked_folder(path)
    module = tf.Module()
    serve = _traced(model)
    module.stored = [
        variable.buffer if isinstance(variable, CompressedVariable) else variable
        for variable in stored_order(model)
    ]
    # Lookup tables and the like, which the function uses too.
    children = tf.train.TrackableView(model).descendants()
    module.resources = [child for child in children if isinstance(child, CapturableResource)]
    with artifacts.replacing(path) as temporary:
        tf.saved_model.save(
            module,
            temporary,
            signatures={"serving_default": serve},
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        _make_portable(temporary)
        os.replace(temporary, path)


def _traced(model):
    """The model's inference as a concrete function of named, flat tensors."""
    args, kwargs = _input_specs(model)
    flat, names = tf.nest.flatten([args, kwargs]), set()
    specs = [_named(spec, index, names) for index, spec in enumerate(flat)]
    options = {}
    if "training" in inspect.signature(model.call).parameters:
        options["training"] = False

    def serve(*inputs):
        structured, named = tf.nest.pack_sequence_as([args, kwargs], inputs)
        outputs = model(*structured, **named, **options)
        if isinstance(outputs, dict):
            return outputs
        outputs = tf.nest.flatten(outputs)
        known = getattr(model, "output_names", None) or []
        if len(known) != len(outputs):
            known = [f"output_{index}" for index in range(len(outputs))]
        return dict(zip(known, outputs))

    with _addressed_by_buffers(model), kernels.pure():
        return tf.function(serve, autograph=False).get_concrete_function(*specs)


def _input_specs(model):
    specs = host.input_specs(model)
    if specs is None:
        raise ModelError(
            "model",
            "a model whose inputs are known",
            f"{model.name!r}, which has not been called yet",
            "call the model on a batch first.",
        )
    return specs


def _named(spec, index, taken):
    """The spec under a name that is an identifier and not in `taken`, to which it is added."""
    name = re.sub(r"\W", "_", spec.name or f"input_{index}")
    if name in taken:
        name = f"{name}_{index}"
    taken.add(name)
    return tf.TensorSpec(spec.shape, spec.dtype, name)


@contextlib.contextmanager
def _addressed_by_buffers(model):
    """Gives compressed variables their buffer's handle, which a SavedModel can hold, for a while.

    Their own is only an address for gradients, as is that of a scale that is learned; inference
    needs none.
    """
    variables = [v for v in host.variables_of(model) if isinstance(v, CompressedVariable)]
    before = [(variable._handle, variable.learned_scale) for variable in variables]
    try:
        for variable in variables:
            variable._handle, variable.learned_scale = variable.buffer.handle, None
        yield
    finally:
        for variable, (handle, learned) in zip(variables, before):
            variable._handle, variable.learned_scale = handle, learned


def _make_portable(folder):
    """Takes out of a SavedModel what asks for more than plain TensorFlow ops.

    That is the demand to compile with XLA, which a server need not have, and the names of gradient
    functions, which exist in this process only.
    """
    path = os.path.join(folder, tf.saved_model.SAVED_MODEL_FILENAME_PB)
    with open(path, "rb") as file:
        saved = saved_model_pb2.SavedModel.FromString(file.read())
    for meta_graph in saved.meta_graphs:
        library = meta_graph.graph_def.library.function
        nodes = [node for function in library for node in function.node_def]
        for owner in [*library, *nodes, *meta_graph.graph_def.node]:
            for name in ("_XlaMustCompile", "_gradient_op_type"):
                owner.attr.pop(name, None)
    with open(path, "wb") as file:
        file.write(saved.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(folder)
