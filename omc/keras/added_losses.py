"""Losses that layers add while they are called, taken out of them and given back."""


class AddedLosses:
    """Runs a call without leaving the losses that it adds in the layers.

    Args:
        layers: List of layers.
        name: Attribute of a layer that is the list of its losses.
    """

    def __init__(self, layers, name):
        self._layers, self._name = layers, name

    def run(self, call, args, kwargs):
        """(result, losses added), the losses taken out of the layers."""
        before = [len(self._of(layer)) for layer in self._layers]
        result = call(*args, **kwargs)
        added = []
        for layer, count in zip(self._layers, before):
            added.append(list(self._of(layer)[count:]))
            del self._of(layer)[count:]
        return result, added

    def replace_losses(self, added):
        """Gives the layers the losses of the first run, now with their gradients."""
        for layer, losses in zip(self._layers, added):
            self._of(layer).extend(losses)

    def _of(self, layer):
        return getattr(layer, self._name)
