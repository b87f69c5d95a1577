"""Mistakes with aggregators."""

import numpy as np

from omc.learning import FedMPQ, build_controlled_fed_avg, build_weighted_fed_avg
from omc.learning.aggregators import Mean, PrivateMean, SecureMean, TrimmedMean
from omc.learning.uplinks import Grid
from omc.policies import Policy
from tests.error_cases.registry import case
from tests.error_cases.widths import model_fn


@case("unknown aggregator")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", aggregator="mode")


@case("aggregator of another type")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", aggregator=3)


@case("client work that is no function")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", client_work="train")


@case("clipping of whole weights")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", aggregator=Mean(clipping=1.0))


@case("privacy of whole weights")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", aggregator=PrivateMean(1.0, 1.0, 10))


@case("privacy where clients report widths")
def _(_folder):
    policy, private = Policy("INT8", fraction=1), PrivateMean(1.0, 1.0, 10)
    build_weighted_fed_avg(model_fn, policy, uplink="update", widths=FedMPQ(), aggregator=private)


@case("secure sum of codes without a common grid")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", uplink="update", aggregator=SecureMean(10))


@case("secure sum beyond int32")
def _(_folder):
    build_weighted_fed_avg(model_fn, "INT8", uplink=Grid(bits=20), aggregator=SecureMean(100))


@case("secure sum in a controller")
def _(_folder):
    build_controlled_fed_avg(model_fn, "INT8", uplink=Grid(), aggregator=SecureMean(10))


@case("trimmed share of half of the clients")
def _(_folder):
    TrimmedMean(0.5)


@case("bound of clipping that is none")
def _(_folder):
    Mean(clipping="much")


@case("bound of a grid that is none")
def _(_folder):
    Grid(bound=0.0)


@case("clipping of an array")
def _(_folder):
    Mean(clipping=np.array([1.0, 2.0]))


@case("secure sum that is neither on nor off")
def _(_folder):
    SecureMean(3, secure="no")


@case("bound of a grid that float32 does not hold")
def _(_folder):
    Grid(bound=1e39)


@case("step of a grid that float32 does not hold")
def _(_folder):
    Grid(bound=1e-37, bits=24)


@case("clip that float32 does not hold")
def _(_folder):
    PrivateMean(1e39, 1.0, 10)
