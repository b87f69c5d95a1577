"""TensorFlow Federated: processes that exchange codes. The only room that imports TFF."""

from omc.learning import downlinks, uplinks
from omc.learning.baselines import build_fp32_fed_avg
from omc.learning.byte_counts import traffic
from omc.learning.controller import build_controlled_fed_avg
from omc.learning.fedmpq import FedMPQ
from omc.learning.identities import client_id
from omc.learning.processes import build_weighted_fed_avg
from omc.learning.runtime import local_runtime, remote_runtime
from omc.learning.widths import Widths, round_to_width

__all__ = [
    "FedMPQ",
    "Widths",
    "build_controlled_fed_avg",
    "build_fp32_fed_avg",
    "build_weighted_fed_avg",
    "client_id",
    "downlinks",
    "local_runtime",
    "remote_runtime",
    "round_to_width",
    "traffic",
    "uplinks",
]
