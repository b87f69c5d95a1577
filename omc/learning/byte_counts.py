"""Bytes of a round: counted at each client, summed up, and read out of a process's metrics."""

import collections

import tensorflow as tf

COUNTS = ("answers", "clients", "downlink_bytes", "parameter_bytes", "uplink_bytes")
"""What is counted of every client; code_bits, too, where widths are allocated."""


def of_client(stats, downlink_bytes, widths, client):
    """A client's counts, a dict of tensors that can be summed over clients.

    Args:
        stats: As of `ClientTrainer.train`.
        downlink_bytes: Serialized bytes of what it got, int64.
        widths: `ClientWidths` or None. With them all counts are there once more, each as a vector
            with a place for every class of clients.
        client: Its id, an int32 scalar.
    """
    counts = collections.OrderedDict(sorted({**stats, "downlink_bytes": downlink_bytes}.items()))
    if widths is not None:
        own = tf.one_hot(widths.index(client), len(widths.bits), dtype=tf.int64)
        for key in _counted(widths):
            counts[f"width_{key}"] = own * counts[key]
    return counts


def summarize(stats, plan):
    """Traffic of a round, a dict of tensors, out of its clients' summed stats.

    Args:
        stats: As of `of_client`, summed.
        plan: `ModelPlan`. With widths the traffic holds "widths", too: vectors with the sums of the
            clients of each.
    """
    widths = plan.widths
    clients, answers = (tf.cast(stats[key], tf.float32) for key in ("clients", "answers"))
    distortion = tf.math.divide_no_nan(stats["uplink_error"], stats["uplink_energy"])
    summary = collections.OrderedDict(answers=stats["answers"], clients=stats["clients"])
    for key in ("downlink_bytes", "parameter_bytes", "uplink_bytes"):
        summary[key] = stats[key]
        number = answers if key == "uplink_bytes" else clients
        summary[f"{key}_per_client"] = tf.math.divide_no_nan(
            tf.cast(stats[key], tf.float32), number
        )
    summary["uplink_distortion"] = distortion
    if widths is not None:
        summary["widths"] = collections.OrderedDict(bits=tf.constant(widths.bits))
        for key in _counted(widths):
            summary["widths"][key] = tf.convert_to_tensor(stats[f"width_{key}"])
        if widths.allocates:
            weights = [widths.weights(plan)] * len(widths.bits)
            summary["widths"]["weights"] = tf.constant(weights, tf.int64)
    return summary


def traffic(metrics):
    """Bytes of a round, out of the metrics of either process.

    Args:
        metrics: What `process.next` returned beside the state.

    Returns:
        Dict of numbers: clients; answers (clients that had data and so sent something); mean per
        client downlink_bytes and parameter_bytes (what the model's variables take on the client);
        mean per answer uplink_bytes, 0 without any. Where clients have widths, also widths: a dict
        from each to such a dict of the clients that have it; means over none are 0. Under FedMPQ
        these hold average_bits, too: bits of a weight's code, mean over what clients started to
        train on, of those variables that have widths.
    """
    counted = metrics["client_work"].get("traffic")
    if counted is None:
        counted = {**metrics["distributor"], **metrics["aggregator"]}
    found = _means(counted)
    widths = counted.get("widths")
    if widths is not None:
        found["widths"] = {
            int(bits): _means({key: values[place] for key, values in widths.items()})
            for place, bits in enumerate(widths["bits"])
        }
    return found


def _means(counted):
    clients, answers = int(counted["clients"]), int(counted["answers"])
    found = {
        "clients": clients,
        "answers": answers,
        "downlink_bytes": int(counted["downlink_bytes"]) / max(clients, 1),
        "uplink_bytes": int(counted["uplink_bytes"]) / max(answers, 1),
        "parameter_bytes": int(counted["parameter_bytes"]) / max(clients, 1),
    }
    if "weights" in counted:
        weights = max(clients, 1) * int(counted["weights"])
        found["average_bits"] = int(counted["code_bits"]) / weights
    return found


def _counted(widths):
    return sorted((*COUNTS, "code_bits")) if widths.allocates else COUNTS
