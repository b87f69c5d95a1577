"""Functions that work on a variable's handle: tf.raw_ops and tf.compat.v1.scatter_*.

Behind the handle of a compressed variable there is nothing, so TensorFlow's kernels would write a
value that no one reads, or fail without saying which variable. Importing this module makes these
public functions look for such handles. What has a meaning for codes goes to the variable's own
methods; everything else is refused by name.
"""

import functools
import inspect

import tensorflow as tf

from omc.errors import ModelError
from omc.keras.conversion import refuses
from omc.keras.variable import CompressedVariable

_SCATTERS = ("add", "sub", "mul", "div", "min", "max", "update")
_ND_SCATTERS = ("Add", "Sub", "Min", "Max", "Update")


def _read(variable, dtype):
    if tf.as_dtype(dtype) != variable.dtype:
        raise ModelError(
            "variable",
            f"reads of its dtype, {variable.dtype.name}",
            f"{tf.as_dtype(dtype).name} of {variable.name!r}",
            "cast what it gives.",
        )
    return variable.read_value()


def _gather(variable, indices, dtype, batch_dims=0, **_):
    if batch_dims:
        return tf.gather(_read(variable, dtype), indices, batch_dims=batch_dims)
    return tf.cast(variable.sparse_read(indices), dtype)


def _assign_slice(variable, begin, end, strides, value, **masks):
    variable._strided_slice_assign(begin, end, strides, value, **masks)


_SERVED = {  # name -> (variable, the op's other arguments)
    "AssignVariableOp": lambda v, value, **_: v.assign(value, read_value=False),
    "AssignAddVariableOp": lambda v, value: v.assign_add(value, read_value=False),
    "AssignSubVariableOp": lambda v, value: v.assign_sub(value, read_value=False),
    "ReadVariableOp": _read,
    "VarIsInitializedOp": lambda v: v.is_initialized(),
    "VariableShape": lambda v, out_type=tf.int32: tf.constant(v.shape.as_list(), out_type),
    "ResourceGather": _gather,
    "ResourceGatherNd": lambda v, indices, dtype, **_: tf.gather_nd(_read(v, dtype), indices),
    "ResourceStridedSliceAssign": _assign_slice,
}


def _scatter(method, variable, indices, updates, **_):
    _call(method, variable, indices, updates)


def _call(method, variable, indices, updates):
    slices = (indices, updates) if "_nd_" in method else (tf.IndexedSlices(updates, indices),)
    return getattr(variable, method)(*slices)


for _name in _SCATTERS:
    _method = functools.partial(_scatter, f"scatter_{_name}")
    _SERVED[f"ResourceScatter{_name.capitalize()}"] = _method
for _name in _ND_SCATTERS:
    _method = functools.partial(_scatter, f"scatter_nd_{_name.lower()}")
    _SERVED[f"ResourceScatterNd{_name}"] = _method


def _guarded(name, op):
    """A raw op that serves or refuses the handles of compressed variables."""

    @refuses
    def run(**kwargs):
        for key, value in kwargs.items():
            variable = CompressedVariable.behind(value)
            if variable is not None:
                return _served(name, variable, key, kwargs)
        return op(**kwargs)

    functools.update_wrapper(run, op)
    run.__signature__ = inspect.signature(op)
    return run


def _served(name, variable, key, arguments):
    rest = {k: v for k, v in arguments.items() if k not in (key, "name", "use_locking")}
    if name not in _SERVED:
        raise ModelError(
            "variable",
            "a variable with a dense value behind its handle",
            f"the compressed {variable.name!r} in tf.raw_ops.{name}",
            "pass variable.read_value(), and store results with variable.assign.",
        )
    return _SERVED[name](variable, **rest)


def _scatter_function(method, op):
    """A function of tf.compat.v1 that takes a variable, for compressed ones too."""

    @functools.wraps(op)
    def run(ref, indices, updates, use_locking=None, name=None):
        if not isinstance(ref, CompressedVariable):
            options = {} if use_locking is None else {"use_locking": use_locking}
            return op(ref, indices, updates, name=name, **options)
        return _call(method, ref, indices, updates)

    return run


def _install():
    for module in (tf.raw_ops, tf.compat.v1.raw_ops, tf.compat.v2.raw_ops):
        for name, op in list(vars(module).items()):
            if callable(op) and not name.startswith("_"):
                setattr(module, name, _guarded(name, op))
    methods = [f"scatter_{name}" for name in _SCATTERS] + ["batch_scatter_update"]
    methods += [f"scatter_nd_{name}" for name in ("add", "sub", "update")]
    for method in methods:
        setattr(tf.compat.v1, method, _scatter_function(method, getattr(tf.compat.v1, method)))


_install()
