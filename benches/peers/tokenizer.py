#!/usr/bin/env python3
"""Training a vocabulary and encoding, shoestring next to HuggingFace tokenizers, by turns in one run.

    pip install tokenizers
    cargo build --release && python3 benches/peers/tokenizer.py TEXT [--rounds 5] [--vocab-size 8192] [--threads 2]

Training reads TEXT from disk, on the given threads. Encoding is of its first 10 MB, line by line, on one thread;
what both need to start is measured with an empty text and taken off. Medians of the rounds.
"""
import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

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


def run(command, threads, **options):
    """Seconds of a command, and its peak resident set size in MB."""
    environment = {"RAYON_NUM_THREADS": str(threads), "PATH": "/usr/bin:/bin"}
    code = (
        "import resource,subprocess,sys;c=subprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL).returncode;"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1024,file=sys.stderr);sys.exit(c)"
    )
    begin = time.perf_counter()
    wrapped = [sys.executable, "-c", code, *map(str, command)]
    done = subprocess.run(wrapped, env=environment, stderr=subprocess.PIPE, text=True, **options)
    seconds = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[:3]))} failed:\n{done.stderr}")
    return seconds, float(done.stderr.split()[-1])


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
            with open(text) as lines:
                return run([PROGRAM, "tokenizer", "encode", "--tokenizer", own], 1, stdin=lines)[0]

        def peer_encoding(text):
            return run([sys.executable, "-c", ENCODE, peer, text], 1)[0]

        for _ in range(options.rounds):
            for name, command in (("shoestring", own_training), ("peer", peer_training)):
                seconds, memory[name] = run(command, options.threads)
                training[name].append(seconds)
            for name, encode in (("shoestring", own_encoding), ("peer", peer_encoding)):
                encoding[name].append(size / (encode(part) - encode(nothing)))
    for what, unit, rows in (("training", "s", training), ("encoding", "MB/s", encoding)):
        for name, values in rows.items():
            print(f"{what} {name:10} {statistics.median(values):8.2f} {unit}   ({', '.join(f'{v:.2f}' for v in values)})")
    print("peak memory in training: " + ", ".join(f"{name} {size:.0f} MB" for name, size in memory.items()))


main()
