#!/usr/bin/env python3
"""Training a vocabulary and encoding, shoestring next to HuggingFace tokenizers, by turns in one run.

    pip install tokenizers
    cargo build --release && python3 benches/peers/tokenizer.py TEXT [--rounds 5] [--vocab-size 8192] [--threads 2]

Training reads TEXT from disk, on the given threads. Encoding is of its first 10 MB, line by line, on one thread;
what both need to start is measured with an empty text and taken off. Medians of the rounds.
"""
import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

from measured import peak_megabytes

PROGRAM = pathlib.Path(__file__).resolve().parent.parent.parent / "target" / "release" / "shoestring"

TRAIN = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
text, vocabulary, out = sys.argv[1:]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokenizer.train([text], trainers.BpeTrainer(vocab_size=int(vocabulary), initial_alphabet=alphabet, show_progress=False))
tokenizer.save(out)
"""

ENCODE = """
import sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
count = 0
for line in open(sys.argv[2], encoding="utf-8"):
    count += len(tokenizer.encode(line).ids)
print(count)
"""


def run(command):
    """Seconds of a command, and its peak resident set size in MB."""
    begin = time.perf_counter()
    _, memory = peak_megabytes(command)
    return time.perf_counter() - begin, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    training, encoding, memory = {"shoestring": [], "peer": []}, {"shoestring": [], "peer": []}, {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        part, nothing, own, peer = (folder / name for name in ("part", "nothing", "own.json", "peer.json"))
        part.write_text(options.text.read_bytes()[:10_000_000].decode(errors="ignore"))
        nothing.write_text("")
        size = part.stat().st_size / 1e6
        own_training = [PROGRAM, "tokenizer", "train", "--quiet", "--data", options.text, "--out", own,
                        "--vocab-size", options.vocab_size, "--threads", options.threads]
        peer_training = [sys.executable, "-c", TRAIN, options.text, options.vocab_size, peer]

        def own_encoding(text):
            encode = 'exec "$0" tokenizer encode --tokenizer "$1" <"$2" >/dev/null'
            return run(["sh", "-c", encode, PROGRAM, own, text])[0]

        def peer_encoding(text):
            return run([sys.executable, "-c", ENCODE, peer, text])[0]

        # How many threads the peer takes.
        os.environ["RAYON_NUM_THREADS"] = str(options.threads)
        for _ in range(options.rounds):
            for name, command in (("shoestring", own_training), ("peer", peer_training)):
                seconds, memory[name] = run(command)
                training[name].append(seconds)
            for name, encode in (("shoestring", own_encoding), ("peer", peer_encoding)):
                encoding[name].append(size / (encode(part) - encode(nothing)))
    for what, unit, rows in (("training", "s", training), ("encoding", "MB/s", encoding)):
        for name, values in rows.items():
            print(f"{what} {name:10} {statistics.median(values):8.2f} {unit}   ({', '.join(f'{v:.2f}' for v in values)})")
    print("peak memory in training: " + ", ".join(f"{name} {size:.0f} MB" for name, size in memory.items()))


main()
