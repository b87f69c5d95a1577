"""Mistakes with clients' budgets in a federation."""

from omc.learning import FedMPQ, build_weighted_fed_avg
from omc.policies import Policy
from tests.error_cases.registry import case
from tests.error_cases.widths import model_fn


def mistake(name, function, *arguments, **named):
    """Registers a call that goes wrong."""
    case(name)(lambda _: function(*arguments, **named))


def process(policy="INT8", **arguments):
    arguments = {"uplink": "update", "widths": FedMPQ(), **arguments}
    return build_weighted_fed_avg(model_fn, policy, **arguments)


mistake("budgets of another type", FedMPQ, budgets=4)
mistake("budget below two bits", FedMPQ, budgets=(1, 4))
mistake("lasso below 0", FedMPQ, lasso=-0.1)
mistake("lasso of another type", FedMPQ, lasso="small")
mistake("density of planes out of range", FedMPQ, threshold=1.0)
mistake("density of planes of another type", FedMPQ, threshold="few")
mistake("unknown strategy of budgets", FedMPQ, strategy="greedy")
mistake("unknown scales of budgets", FedMPQ, scales="widest")
mistake("unknown weighting of budgets", FedMPQ, weighting="uniform")
mistake("budget above the format's bits", process, "INT4")
mistake("budgets of codes that are no integers", process, "S1E3M7")
mistake("budgets under partial quantization", process, Policy("INT8", fraction=0.9))
mistake(
    "lasso under nearest rounding",
    process,
    Policy("INT8", rounding="nearest"),
    widths=FedMPQ(lasso=0.005),
)
mistake("budgets with nothing to allocate", process, Policy("INT8", overrides={"*": "FP32"}))
mistake("whole weights under budgets", process, uplink="weights")
mistake("changes with budgets", process, downlink="changes")
