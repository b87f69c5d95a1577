"""The functions by which Keras 3 writes a whole model: to a file, to copy and to pickle it."""

from keras.src.legacy.saving import legacy_h5_format
from keras.src.saving import saving_lib

WRITERS = (
    (saving_lib, "save_model"),
    (saving_lib, "_save_model_to_fileobj"),
    (legacy_h5_format, "save_model_to_hdf5"),
)
"""(module, name) of functions whose first argument is the model."""
