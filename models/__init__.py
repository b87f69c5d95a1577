"""Models for the simulations: plain Keras builders that know nothing of OMC or TFF."""

from models.conformer import CONFORMERS, Conformer, StreamingConformer, conformer
from models.lstm_lm import lstm_lm
from models.mlp import mlp
from models.transformer import Transformer, transformer

__all__ = [
    "CONFORMERS",
    "Conformer",
    "StreamingConformer",
    "Transformer",
    "conformer",
    "lstm_lm",
    "mlp",
    "transformer",
]
