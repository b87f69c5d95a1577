"""Models for the simulations: plain Keras builders that know nothing of OMC or TFF."""

from models.mlp import mlp

__all__ = ["mlp"]
