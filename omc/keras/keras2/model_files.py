"""The functions by which Keras 2 writes a whole model: to a file, to copy and to pickle it."""

from omc.keras.keras2.host import _module

WRITERS = (
    (_module("saving.saving_lib"), "save_model"),
    (_module("saving.legacy.hdf5_format"), "save_model_to_hdf5"),
)
"""(module, name) of functions whose first argument is the model."""
