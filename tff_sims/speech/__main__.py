"""Makes the spoken corpus, tells what it holds, and lets you hear and see some of it.

python -m tff_sims.speech                                 # sentences in quiet rooms
python -m tff_sims.speech --kind=keywords --domain=noisy --listen=DIR
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _arguments():
    # Not above: importing omc takes seconds, --help should not.
    from tff_sims.speech.rooms import DOMAINS
    from tff_sims.speech.utterances import KINDS

    parser = argparse.ArgumentParser(
        prog="python -m tff_sims.speech",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kind", default=KINDS[0], choices=KINDS, help="what is said")
    parser.add_argument("--domain", default=DOMAINS[0], choices=DOMAINS, help="where it is said")
    parser.add_argument("--speakers", type=int, default=100, help="training speakers (100)")
    parser.add_argument("--utterances", type=int, default=32, help="of each of them (32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (0)")
    parser.add_argument(
        "--listen",
        metavar="DIR",
        help="write the first sentence of six speakers to DIR as SPEAKER/0.wav with a transcript, "
        "and features.png; without making the corpus",
    )
    return parser.parse_args()


def main():
    """Reads the arguments and does as they say."""
    arguments = _arguments()
    from omc.errors import OmcError
    from tff_sims.speech.utterances import Specification

    try:
        specification = Specification(
            kind=arguments.kind,
            domain=arguments.domain,
            speakers=arguments.speakers,
            utterances=arguments.utterances,
            seed=arguments.seed,
        )
        if arguments.listen:
            _listen(specification, pathlib.Path(arguments.listen))
        else:
            _tell(specification)
    except (OmcError, OSError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        sys.exit(2)


def _tell(specification):
    from tff_sims.speech import cache, corpus
    from tff_sims.speech.features import HOP_SECONDS

    made = corpus.load(specification)
    lengths = [len(utterance) * HOP_SECONDS for utterance in made.features]
    words = sum(len(transcript.split()) for transcript in made.transcripts)
    print(
        f"{len(lengths):,} utterances of {specification.speakers} training and "
        f"{specification.test_speakers} test speakers, {words:,} words, {sum(lengths) / 60:.0f} "
        f"minutes, {min(lengths):.2f} to {max(lengths):.2f} seconds each\n"
        f"kept as {cache.folder() / specification.key}.npz"
    )


def _listen(specification, folder, number=6):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from scipy.io import wavfile

    from tff_sims.speech.features import HOP_SECONDS, RATE, log_mel
    from tff_sims.speech.utterances import utterance

    figure, axes = plt.subplots(number // 2, 2, figsize=(11, 2.2 * number // 2), squeeze=False)
    for speaker, axis in zip(range(min(number, specification.speakers)), axes.flat):
        transcript, samples = utterance(specification, speaker, 0)
        place = folder / f"speaker{speaker:03d}"
        place.mkdir(parents=True, exist_ok=True)
        loud = samples / np.abs(samples).max()
        wavfile.write(place / "0.wav", RATE, (32000 * loud).astype(np.int16))
        (place / "0.txt").write_text(transcript + "\n", encoding="utf-8")
        mels = log_mel(samples)
        axis.imshow(
            mels.T, origin="lower", aspect="auto", extent=(0, len(mels) * HOP_SECONDS, 0, 40)
        )
        axis.set(title=f"speaker {speaker}: {transcript}", xlabel="seconds", ylabel="mel band")
    figure.tight_layout()
    figure.savefig(folder / "features.png", dpi=110)
    print(f"wavs, transcripts and features.png are in {folder}")


if __name__ == "__main__":
    main()
