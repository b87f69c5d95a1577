"""What depends on the Keras in use and on compressed variables at once, by one set of names.

    References, prepare, finish             how a model holds its variables, and lets go of them
    strategy_of, is_in_use, SLOTS_FOLLOW    what keeps a model from being wrapped
    defer                                   models that are not built yet
    weights_made_by, unpack                 weights that are compressed as they are made
    slim                                    optimizers
    WRITERS                                 what writes whole models
    training                                what a training step asks of a compiled model

`omc.keras.host` has what needs no compressed variable.
"""

from omc.keras.versions import MAJOR

if MAJOR == 2:
    from omc.keras.keras2 import training
    from omc.keras.keras2.deferred import defer
    from omc.keras.keras2.model_files import WRITERS
    from omc.keras.keras2.optimizers import slim
    from omc.keras.keras2.references import (
        SLOTS_FOLLOW,
        References,
        finish,
        is_in_use,
        prepare,
        strategy_of,
    )
    from omc.keras.keras2.weights import unpack, weights_made_by
else:
    import omc.keras.keras3.einsum  # noqa: F401 - which meets compressed kernels
    from omc.keras.keras3 import training
    from omc.keras.keras3.deferred import defer
    from omc.keras.keras3.model_files import WRITERS
    from omc.keras.keras3.optimizers import slim
    from omc.keras.keras3.references import (
        SLOTS_FOLLOW,
        References,
        finish,
        is_in_use,
        prepare,
        strategy_of,
    )
    from omc.keras.keras3.weights import unpack, weights_made_by

__all__ = [
    "SLOTS_FOLLOW",
    "WRITERS",
    "References",
    "defer",
    "finish",
    "is_in_use",
    "prepare",
    "slim",
    "strategy_of",
    "training",
    "unpack",
    "weights_made_by",
]
