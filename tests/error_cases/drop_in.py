"""Mistakes with TFF's own arguments."""

import tensorflow_federated as tff

from omc.learning import build_weighted_fed_avg
from tests.error_cases.registry import case
from tests.error_cases.widths import model_fn


@case("aggregator of TFF's")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", model_aggregator=tff.aggregators.MeanFactory())


@case("distributor of TFF's")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", model_distributor=model_fn)


@case("experimental loop of TFF's")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", use_experimental_simulation_loop=True)


@case("weighting of clients by a function")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", client_weighting=len)
