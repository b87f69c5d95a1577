"""Keras: variables stored as codes, and wrap() which puts them into a model."""

from omc.keras.recompute import recompute
from omc.keras.variable import CompressedVariable
from omc.keras.wrapping import wrap

__all__ = ["CompressedVariable", "recompute", "wrap"]
