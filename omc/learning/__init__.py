"""TensorFlow Federated: processes that exchange codes. The only room that imports TFF."""

from omc.learning.baselines import build_fp32_fed_avg, traffic
from omc.learning.controller import build_controlled_fed_avg
from omc.learning.processes import build_weighted_fed_avg
from omc.learning.runtime import local_runtime, remote_runtime

__all__ = [
    "build_controlled_fed_avg",
    "build_fp32_fed_avg",
    "build_weighted_fed_avg",
    "local_runtime",
    "remote_runtime",
    "traffic",
]
