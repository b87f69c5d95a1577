"""Uplink "update": what changed, in the format of the weights."""

import dataclasses

from omc.alternative_codecs import AlternativeCodec
from omc.learning.uplinks.base import VariableUplink, fit_buffers


@dataclasses.dataclass(frozen=True)
class Update(VariableUplink):
    """A client sends Q(w' - w), each variable in the codec that the client holds it in (ours).

        w <- server_optimizer(w, mean_k(Q(w'_k - w_k)))

    Q rounds stochastically, and so without bias; variables in float32 are sent as they are.
    """

    def spec(self, variable):
        """As `VariableUplink.spec`."""
        return variable.buffer_spec

    def encode_variable(self, result, change, seed):
        """As `VariableUplink.encode_variable`."""
        codec = result.described.codec
        if codec is None:
            return change
        if isinstance(codec, AlternativeCodec):
            return codec.encode_as(result.stored(), change, seed)
        return codec.encode(change, seed)

    def decode_variable(self, variable, tensor):
        """As `VariableUplink.decode_variable`."""
        return tensor if variable.codec is None else variable.codec.decode(tensor)

    def fitted(self, variables, tensors):
        """As `Uplink.fitted`."""
        return fit_buffers(variables, tensors)
