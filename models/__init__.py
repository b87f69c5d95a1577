"""Models for the simulations: plain Keras builders that know nothing of OMC or TFF."""

from models.conformer import CONFORMERS, Conformer, StreamingConformer, conformer
from models.keyword_cnn import keyword_cnn
from models.keyword_lstm import keyword_lstm
from models.lstm_lm import lstm_lm
from models.mlp import mlp
from models.resnet8 import resnet8
from models.resnet20 import resnet20
from models.transformer import Transformer, transformer

__all__ = [
    "CONFORMERS",
    "Conformer",
    "StreamingConformer",
    "Transformer",
    "conformer",
    "keyword_cnn",
    "keyword_lstm",
    "lstm_lm",
    "mlp",
    "resnet8",
    "resnet20",
    "transformer",
]
