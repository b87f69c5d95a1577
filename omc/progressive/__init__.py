"""Progressive download: a model of few bits first, then what makes it more precise.

After P2U (Progressive Precision Update, arXiv 2506.22871). A sender splits a model into parts,

>>> parts = omc.progressive.split(model, ["INT4", "INT8", "FP32"])  # Base, delta, delta.
>>> for index, part in enumerate(parts):
...     part.save(f"{index}.part")

and a device that holds the architecture uses the first one at once and grows it in place:

>>> receiver = omc.progressive.Receiver(plain_model, directory="parts")
>>> receiver.apply(omc.progressive.load("0.part"))  # receiver.stage is "INT4"; predict, then
>>> receiver.apply(omc.progressive.load("1.part"))

Parts travel as files, or in chunks that a `Download` collects; what a device learned between two
parts can be kept; and a new version of a model costs only the variables that changed:

>>> update = omc.progressive.split(newer, ["INT4", "INT8"], known=parts)  # On what parts led to.

What P2U leaves open is ours: a delta codes the next stage's codes given the codes that the receiver
has, so that the last stage is the target bit for bit, for about the bytes of the target alone.
docs/progressive.md has the format of a part, and figures.
"""

from omc.progressive.download import Download
from omc.progressive.parts import Part, load
from omc.progressive.receiver import Receiver
from omc.progressive.splitting import split

__all__ = ["Download", "Part", "Receiver", "load", "split"]
