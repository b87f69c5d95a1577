"""Size and speed of the entropy coder, beside zstandard and constriction if they are installed.

pip install zstandard constriction    # Both are optional; what is not there is left out.

MB/s are of the buffers that are coded, by the processor's seconds in the fastest of some rounds: no
coder here uses two cores, and the machine may be shared. The entropy is that of the coder's tokens
under their own distribution (given their context), of the bits that it sends raw, and of the
transform's 64; bytes are all that is sent, heads and checksums included.
"""

import importlib
import time

import numpy as np
import tensorflow as tf

from benchmarks import harness
from models.keyword_cnn import keyword_cnn
from models.mlp import mlp
from omc import coding, packing
from omc.codecs import Codec
from omc.coding import buffers, tables
from omc.coding import tokens as binary
from omc.formats import Format

FORMATS = ("INT2", "INT4", "INT8", "S1E2M3", "S1E3M7", "S1E5M10", "FP32")
_QUICK_FORMATS = ("INT4", "S1E3M7")
_LEVEL = 19  # Of zstandard.
_DELTAS = ("INT8", "S1E3M7")


def run(quick=False):
    """Trained weights and samples in several formats; deltas given what the receiver has.

    Args:
        quick: Two formats, samples of 128 k weights, networks that were hardly trained.

    Returns:
        List of `harness.Table`.
    """
    weights = _weights(quick)
    table = _table("coding", "Variables, coded on their own")
    for name, versions in weights.items():
        for fmt in _QUICK_FORMATS if quick else FORMATS:
            harness.progress(f"coding {name} {fmt}")
            parts = [_alone(version[0], fmt) for version in versions]
            table.rows.append(_row(name, fmt, parts, quick))
    deltas = _table("deltas", "Variables, coded given what the receiver has")
    for name, versions in weights.items():
        harness.progress(f"deltas {name}")
        for fmt in _DELTAS[quick:]:
            parts = [_changed(*version, fmt) for version in versions if len(version) > 1]
            if parts:
                deltas.rows.append(_row(name, f"{fmt}, last version", parts, quick))
        parts = [_finer(version[0]) for version in versions]
        deltas.rows.append(_row(name, "INT8, its INT4", parts, quick))
    targets = harness.Table(
        "targets", "Targets", harness.TARGET_COLUMNS, list(_targets(table, deltas))
    )
    return [table, deltas, targets]


def _table(name, title):
    columns = [("weights_of", "weights", ""), ("count", "count", ",d"), ("format", "format", "")]
    columns += [("stored", "stored, bits/weight", ".3f"), ("entropy", "entropy", ".4f")]
    for who in ("omc", "zstd", "constriction"):
        columns += [
            (f"{who}_bits", f"{who}, bits/weight", ".4f"),
            (f"{who}_encode", f"{who}, encode MB/s", ",.0f"),
            (f"{who}_decode", f"{who}, decode MB/s", ",.0f"),
        ]
    columns.insert(6, ("to_entropy", "omc / entropy", ".4f"))
    return harness.Table(name, title, columns)


def _weights(quick):
    """Dict of name -> list of (array, and for networks the array a little training later)."""
    rng, shape = np.random.default_rng(0), (128, 1024) if quick else (1024, 1024)
    samples = {
        "Gaussian": [(rng.standard_normal(shape).astype(np.float32),)],
        "Laplace": [(rng.laplace(size=shape).astype(np.float32),)],
    }
    from sklearn.datasets import load_digits  # Of the extra omc[sims].

    digits = load_digits()
    y = digits.target
    flat = (digits.data / 16).astype(np.float32)
    tf.keras.utils.set_random_seed(0)
    networks = {"MLP": (mlp(), flat)}
    if not quick:
        pictures = flat.reshape(-1, 8, 8).repeat(4, axis=1).repeat(4, axis=2)
        networks["keyword CNN"] = (keyword_cnn(classes=10, features=32, frames=32), pictures)
    return {**{name: _trained(*pair, y, quick) for name, pair in networks.items()}, **samples}


def _trained(model, x, y, quick):
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(1e-3), loss)
    model.fit(x, y, batch_size=64, epochs=1 if quick else 15, verbose=0)
    before = model.get_weights()
    model.optimizer.learning_rate.assign(1e-4)
    model.fit(x[:640], y[:640], batch_size=64, epochs=1, verbose=0)
    pairs = zip(before, model.get_weights())
    return [(one, other) for one, other in pairs if one.ndim > 1]


def _alone(array, name):
    """(codec, buffer, given, symbols, contexts) of a variable on its own."""
    fmt = Format.parse(name)
    codec = Codec(fmt, array.shape, not fmt.is_fp32)
    buffer = codec.encode(tf.constant(array)).numpy()
    symbols = buffers.ordinals(buffer, codec)[: codec.count]
    return codec, buffer, None, symbols, np.zeros(codec.count, np.uint8)


def _changed(before, after, name):
    """The same of a version given the one before, under a kept transform."""
    codec = Codec(Format.parse(name), before.shape)
    given = codec.encode(tf.constant(before))
    return _given(codec, codec.assign(given, tf.constant(after)).numpy(), given.numpy())


def _finer(array):
    """The same of INT8 codes given what 4 of their bits say."""
    codec = Codec(Format.parse("INT8"), array.shape)
    buffer = codec.encode(tf.constant(array))
    codes = (codec.codes(buffer) ^ 128) - 128
    nearest = tf.minimum((codes + 8) // 16, 7)
    rows = tf.reshape(nearest, [-1])
    rows = tf.pad(rows, [[0, packing.padded_count(codec.count) - codec.count]])
    planes = packing.pack(tf.reshape(16 * rows & 255, [packing.ROWS, -1]), 8)
    return _given(codec, buffer.numpy(), tf.concat([*planes, buffer[-8:]], axis=0).numpy())


def _given(codec, buffer, given):
    new, old = (buffers.ordinals(each, codec)[: codec.count] for each in (buffer, given))
    symbols = buffers.difference(new, old, codec.format)
    return codec, buffer, given, symbols, buffers.contexts_of(old, codec.format)


def _row(name, fmt, parts, quick):
    """One row of a table: all variables of a network together, or a sample."""
    stored = sum(buffer.size for _, buffer, *_ in parts)
    count = sum(codec.count for codec, *_ in parts)
    row = {"weights_of": name, "count": count, "format": fmt, "stored": 8 * stored / count}
    row["entropy"] = sum(_entropy(*part) for part in parts) / count
    coders = {"omc": _omc}
    for who, coder in (("zstd", _zstd), ("constriction", _constriction)):
        row.update(dict.fromkeys(f"{who}_{key}" for key in ("bits", "encode", "decode")))
        if _module(who) is not None:
            coders[who] = coder
    functions = {}
    for who, coder in coders.items():
        encode, decode = zip(*(coder(*part) for part in parts))
        coded = [function() for function in encode]
        row[f"{who}_bits"] = 8 * sum(size for _, size in coded) / count
        functions[who, "encode"] = _all(encode)
        functions[who, "decode"] = _all(decode, [data for data, _ in coded])
    taken = harness.interleaved(functions, 3 if quick else 7, seconds=5, clock=time.process_time)
    for (who, way), seconds in taken.items():
        row[f"{who}_{way}"] = stored / min(seconds) / 1e6
    row["to_entropy"] = row["omc_bits"] / row["entropy"]
    return row


def _all(functions, data=None):
    if data is None:
        return lambda: [function() for function in functions]
    return lambda: [function(each) for function, each in zip(functions, data)]


def _entropy(codec, buffer, given, symbols, contexts):
    """Bits of tokens under the distribution of their context, and of what is sent as it is."""
    tokens, bits, _ = _tokens(symbols)
    if codec.transform and (given is None or (buffer[-8:] != given[-8:]).any()):
        bits += 64
    for context in np.unique(contexts):
        _, counts = np.unique(tokens[contexts == context], return_counts=True)
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits


def _tokens(symbols):
    """(tokens as `omc.coding.tokens` makes them, count of raw bits, hybrid?): the fewer bits."""
    offsets = (symbols.astype(np.int64) - symbols.min()).astype(np.uint32)
    shift = max(0, int(offsets.max()).bit_length() - 8)
    best = binary.shifted(offsets, shift)[0], float(shift * symbols.size), False
    if shift:
        tokens, _, widths = binary.hybrid(symbols)
        other = tokens, float(widths.sum()), True
        bits = [raw + tables.entropy_bits(np.bincount(each)) for each, raw, _ in (best, other)]
        best = other if bits[1] < bits[0] else best
    return best


def _omc(codec, buffer, given, symbols, contexts):
    def encode():
        data = coding.encode_buffer(buffer, codec, given)
        return data, len(data)

    return encode, lambda data: coding.decode_buffer(data, codec, given)


def _zstd(codec, buffer, given, symbols, contexts):
    """The packed planes, or a byte a weight where that is shorter; differences of what is given."""
    zstandard = _module("zstd")
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    forms = [buffer if given is None else buffer ^ given]
    if codec.format.bits <= 8 or given is not None:
        forms.append(symbols.astype(np.int8 if np.abs(symbols).max() < 128 else np.int16))
    forms = [form.tobytes() for form in forms]
    form = min(forms, key=lambda form: len(compressor.compress(form)))

    def encode():
        data = compressor.compress(form)
        return data, len(data)

    return encode, zstandard.ZstdDecompressor().decompress


def _constriction(codec, buffer, given, symbols, contexts):
    """Its ANS coder, under each context's own distribution of the tokens that omc.coding makes.

    From buffer to bytes and back, in numpy but for the coder; a frequency counts two bytes.
    """
    stream = _module("constriction").stream
    old = None if given is None else buffers.ordinals(given, codec)
    places = [contexts == context for context in np.unique(contexts)]
    hybrid = _tokens(symbols)[2]

    def encode():
        values = buffers.ordinals(buffer, codec)
        if old is not None:
            values = buffers.difference(values, old, codec.format)
        low, high = int(values.min()), int(values.max())
        if hybrid:
            tokens, raw, widths = binary.hybrid(values)
        else:
            offsets = values.view(np.uint32) - np.uint32(low & 0xFFFFFFFF)
            shift = max(0, ((high - low).bit_length()) - 8)
            tokens, raw, widths = binary.shifted(offsets, shift)
        tokens, models, words = tokens.astype(np.int32), [], []
        for place in _padded(places, tokens.size):
            counts = np.bincount(tokens[place]).astype(np.float32)
            model = None
            if np.count_nonzero(counts) > 1:
                model = stream.model.Categorical(counts / counts.sum(), perfect=False)
                coder = stream.stack.AnsCoder()
                coder.encode_reverse(tokens[place], model)
                words.append(coder.get_compressed())
            models.append((model, counts.size, place))
        data = models, words, tokens.size, low, binary.pack_bits(raw, widths), widths
        size = sum(2 * n for _, n, _ in models) + sum(each.nbytes for each in words) + 16
        return data, size + data[4].nbytes

    def decode(data):
        models, words, count, low, packed, widths = data
        tokens, words = np.empty(count, np.int32), iter(words)
        for model, alphabet, place in models:
            tokens[place] = alphabet - 1
            if model is not None:
                number = int(np.count_nonzero(place))
                tokens[place] = stream.stack.AnsCoder(next(words)).decode(model, number)
        widths = binary.hybrid_widths(tokens) if hybrid else widths
        raw = binary.unpack_bits(packed, widths, count)
        if hybrid:
            values = binary.from_hybrid(tokens, raw)
        else:
            raw |= tokens.astype(np.uint32) << np.uint32(widths)
            values = (raw + np.uint32(low & 0xFFFFFFFF)).view(np.int32)
        values = values if old is None else buffers.restored(values, old, codec.format)
        return buffers.to_planes(values, codec)

    return encode, decode


def _padded(places, count):
    """Masks of the contexts, the padding in the first of them."""
    for index, place in enumerate(places):
        yield np.pad(place, (0, count - place.size), constant_values=index == 0)


def _module(who):
    try:
        return importlib.import_module({"zstd": "zstandard"}.get(who, who))
    except ImportError:
        return None


def _targets(table, deltas):
    """Rows of the table of targets; issue 13, "Done when"."""
    rows = table.rows + deltas.rows
    large = [row for row in rows if row["count"] >= 1 << 20] or rows
    trained = [row for row in table.rows if row["weights_of"] in ("MLP", "keyword CNN")]

    def worst(what, among, measure, limit, at_most):
        row = (max if at_most else min)(among, key=measure)
        what += f"; worst of {len(among)}: {row['weights_of']}, {row['format']}"
        return harness.target(what, measure(row), limit, at_most)

    yield worst("size / entropy, trained weights", trained, lambda r: r["to_entropy"], 1.02, True)
    for way in ("encode", "decode"):
        key = f"omc_{way}"
        yield worst(f"MB/s of codes, {way}", large, lambda r, k=key: r[k], 50.0, False)
    for who in ("zstd", "constriction"):
        known = [row for row in rows if row[f"{who}_bits"]]
        if known:
            what = f"over {who}: 3 % smaller or 3 x as fast there and back (1 is just so)"
            yield worst(what, known, lambda r, w=who: _gain(r, w), 1.0, False)


def _gain(row, who):
    smaller = (1 - row["omc_bits"] / row[f"{who}_bits"]) / 0.03
    theirs, ours = (
        sum(1 / row[f"{w}_{way}"] for way in ("encode", "decode")) for w in (who, "omc")
    )
    return max(smaller, theirs / ours / 3)
