"""How often Keras' own functions were traced, on either Keras."""

import inspect


def trace_count(function):
    """How often a model's `train_function`, `test_function` or `predict_function` was traced."""
    if not hasattr(function, "experimental_get_tracing_count"):  # Keras 3's is around one that has.
        function = inspect.getclosurevars(function).nonlocals["multi_step_on_iterator"]
    return function.experimental_get_tracing_count()
