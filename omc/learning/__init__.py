"""TensorFlow Federated: processes that exchange codes. The only room that imports TFF."""

from omc.learning.processes import build_weighted_fed_avg

__all__ = ["build_weighted_fed_avg"]
