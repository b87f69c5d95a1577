"""Which weight matrix feeds a BatchNormalization layer, whose width then decides its set.

HASB (arXiv 2502.01199) has a set for every transition, that is for every pair of a width before and
a width after; n widths make n^2 sets. Ours is n: a set belongs to the width of the layer before,
whose output the statistics are of.
"""

from omc.keras import host
from omc.keras.owners import every_layer, owned


def feeders(model, layers, variables):
    """For each layer the place in `variables` of the one that feeds it.

    It is the nearest one before the layer: in a functional model along its graph; elsewhere, and
    across the borders of inner models, in the order in which the layers stand. Fixed matrices,
    which change no width, are passed over. Where there is none before, it is the first.

    Args:
        model: A wrapped model.
        layers: List of layers of it.
        variables: List of its `CompressedVariable`s that change their width.

    Returns:
        List of ints.
    """
    places = {id(variable): place for place, variable in enumerate(variables)}
    before, last = {}, 0
    for layer in every_layer(model):
        before[id(layer)] = last
        last = max((places[id(v)] for v in owned(layer) if id(v) in places), default=last)
    return [_along_graph(layer, places, before[id(layer)]) for layer in layers]


def _along_graph(layer, places, otherwise):
    """The nearest feeder back along Keras' nodes; `otherwise` where they lead to none."""
    seen, front = {id(layer)}, [layer]
    while front:
        behind = [found for current in front for found in host.layers_before(current)]
        front = list({id(found): found for found in behind if id(found) not in seen}.values())
        seen.update(map(id, front))
        weights = [variable for found in front for variable in host.variables_of(found)]
        found = [places[id(variable)] for variable in weights if id(variable) in places]
        if found:
            return max(found)
    return otherwise
