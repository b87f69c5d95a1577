"""Fleets of devices, simulated over what real runs measured: `python -m tff_sims.fleet --help`."""
