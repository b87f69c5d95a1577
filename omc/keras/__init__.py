"""Keras: variables stored as codes, and wrap() which puts them into a model."""

from omc.keras.calibration import calibrate, nest
from omc.keras.exporting import export
from omc.keras.initialization import init_compressed
from omc.keras.nesting import at_width
from omc.keras.recompute import recompute
from omc.keras.saving import load, save
from omc.keras.switching import Switching
from omc.keras.variable import CompressedVariable
from omc.keras.wrapping import wrap

__all__ = [
    "CompressedVariable",
    "Switching",
    "at_width",
    "calibrate",
    "export",
    "init_compressed",
    "load",
    "nest",
    "recompute",
    "save",
    "wrap",
]
