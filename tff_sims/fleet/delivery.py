"""What a device downloads before it has a model: whole models, and parts, as they exist."""

import dataclasses
import gc
import time

import numpy as np

from omc import progressive
from omc.errors import InputError
from tff_sims.fleet import transfer
from tff_sims.results import load_weights, weights_file

_TIMES = 3


@dataclasses.dataclass(frozen=True)
class Offer:
    """Something that is downloaded in one go, after which the model works.

    Attributes:
        label: Name.
        nbytes: Bytes that exist.
        seconds: Of putting it to use, on the machine that was measured.
    """

    label: str
    nbytes: int
    seconds: float = 0.0


def whole(works):
    """Offers of the runs' whole models: the payload that their clients download in a round.

    Args:
        works: List of `Work`.

    Returns:
        List of `Offer`, one a run and width.
    """
    return [
        Offer(f"{work.label} whole" + (f", {width} bits" if width else ""), round(nbytes))
        for work in works
        for width, nbytes in work.down_bytes.items()
    ]


def split_run(work, stages):
    """Splits a run's final model, applies the parts and offers each prefix of them.

    Args:
        work: `Work` whose folder has the final weights.
        stages: Names of formats, such as ("INT4", "INT8", "FP32").

    Returns:
        List of `Offer`: the base, the base and the first delta, ..., and the last stage in one
        part of its own, made by the same coder.

    Raises:
        InputError: No weights in the folder.
        OmcError: As of `omc.progressive.split`.
    """
    seed = work.settings.seed
    if not weights_file(work.folder, seed).exists():
        got = f"{work.folder}, without weights-{seed}.npz"
        tip = "give part files with --parts, or no stages: --stages=''."
        raise InputError("stages", "a first run with its final weights", got, tip)
    task = work.settings.make_task(seed)
    model = task.build_model()
    load_weights(work.folder, seed, model)
    chains = {"": progressive.split(model, list(stages))}
    if len(stages) > 1:
        chains[", one part"] = progressive.split(model, list(stages[-1:]))
    offers = []
    for name, parts in chains.items():
        seconds = _apply_seconds(parts, task.build_model)
        for count in range(1, len(parts) + 1):
            label = " + ".join(part.stage for part in parts[:count]) + name
            nbytes = sum(len(bytes(part)) for part in parts[:count])
            offers.append(Offer(label, nbytes, sum(seconds[:count])))
    return offers


def _apply_seconds(parts, build):
    """Seconds that a `Receiver` takes to apply each part; the shortest of a few times."""
    times = []
    for _ in range(_TIMES):
        receiver, row = progressive.Receiver(build()), []
        # A base collects garbage, which takes long only for what a simulation has imported.
        gc.freeze()
        try:
            for part in parts:
                start = time.perf_counter()
                receiver.apply(part)
                row.append(time.perf_counter() - start)
        finally:
            gc.unfreeze()
        times.append(row)
    return np.min(times, axis=0).tolist()


def from_files(paths):
    """Offers of part files, in their order; the time to apply them is not in it.

    Args:
        paths: Files of one chain: the base, then deltas.

    Returns:
        List of `Offer`: the base, the base and the first delta, ...

    Raises:
        ArtifactError: No whole part.
        InputError: Parts that are no chain.
    """
    parts, offers, total = [progressive.load(path) for path in paths], [], 0
    for number, (path, part) in enumerate(zip(paths, parts)):
        before = parts[number - 1].digest if number else None
        if part.base_digest != before:
            expected = "the base, then its deltas in order"
            raise InputError("parts", expected, f"{path} in place {number + 1}")
        total += part.nbytes
        offers.append(Offer(" + ".join(p.stage for p in parts[: number + 1]) + " (file)", total))
    return offers


def download_seconds(devices, offer):
    """Time in which an offer's bytes arrive; a device then takes `seconds` / speed to use them.

    Args:
        devices: `Devices`.
        offer: `Offer`.

    Returns:
        float64 array [devices], in seconds.
    """
    return transfer.seconds(offer.nbytes, devices.down_mbps, devices.latency_s, devices.loss)
