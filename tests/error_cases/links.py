"""Mistakes with uplinks and downlinks of a federation."""

from omc.learning import Widths, build_controlled_fed_avg, build_weighted_fed_avg
from omc.learning.downlinks import ByBandwidth, Changes, Coded
from omc.learning.uplinks import Dithered, Rotated
from omc.policies import Policy
from tests.error_cases.registry import case
from tests.error_cases.widths import model_fn


def mistake(name, function, *arguments, **named):
    """Registers a call that goes wrong."""
    case(name)(lambda _: function(*arguments, **named))


mistake("uplink that is none", build_weighted_fed_avg, model_fn, "INT8", uplink=Dithered)
mistake("unknown downlink", build_weighted_fed_avg, model_fn, "INT8", downlink="all")
mistake("downlink that is none", build_weighted_fed_avg, model_fn, "INT8", downlink=4)
mistake("coded link without a runtime", build_weighted_fed_avg, model_fn, "INT8", uplink="dithered")
mistake("changes from a controller", build_controlled_fed_avg, model_fn, "INT8", downlink="changes")
mistake("cohort without clients", Dithered, clients=0)
mistake("cohort of another type", Dithered, clients=1.5)
mistake("target error of 0", Dithered, target_error=0.0)
mistake("target error of another type", Dithered, target_error="small")
mistake("rotated bits above 4", Rotated, bits=5)
mistake("rotated bits of another type", Rotated, bits="1")
mistake("classes that are no downlinks", ByBandwidth, ("coded", "codes"))
mistake("no class of bandwidth", ByBandwidth, ())
mistake("shares of other classes", ByBandwidth, (Coded(4), Coded()), shares=(1,))
mistake("class that is not there", ByBandwidth, (Coded(4), Coded()), assigned={3: 2})
mistake("downlink bits of another type", Coded, bits=4.0)
mistake("downlink bits above the format's", Coded(9).check, Policy("INT8"), None)
mistake("window of no versions", Changes, window=0)
mistake("window of another type", Changes, window=1.5)
mistake("changes under partial quantization", Changes().check, Policy("INT8", fraction=0.9), None)
mistake("changes with widths", Changes().check, Policy("INT8"), Widths((8, 4)))
