#!/usr/bin/env python3
"""Training and decoding speed of shoestring next to PyTorch, alternating in one run.

    pip install torch numpy
    cargo build --release && python3 benches/peers/compare.py [--rounds 5] [--compile] [--kernel avx2]

The peer is the same model written the way a careful PyTorch user would write it: experts batched, input
products hoisted out of the time loop. Both train at the default sizes on 16 x 80 tokens a step, on two
threads. Machines drift, so rounds alternate; the medians and their ratio are what counts.
"""
import argparse
import json
import pathlib
import re
import statistics
import sys
import tempfile

from measured import peak_megabytes

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parent.parent / "target" / "release" / "shoestring"


def shoestring_training(text, kernel, threads, folder):
    flags = ["--kernel", kernel] if kernel else []
    train = ["train", "--model-data", text, "--steps", "400", "--threads", threads, "--checkpoint-dir", folder]
    _, memory = peak_megabytes([PROGRAM, *flags, *train, "--no-chat", "--quiet", "--seed", "1"])
    lines = [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]
    # The first second holds start-up; lines of validations hold the validation.
    rates = [line["tokens_per_second"] for line in lines[1:] if "val_nats_per_token" not in line]
    return statistics.median(rates), memory


def shoestring_decoding(folder, kernel):
    flags = ["--kernel", kernel] if kernel else []
    command = [PROGRAM, *flags, "generate", "--checkpoint", f"{folder}/best.shoe", "--prompt", "a"]
    output, _ = peak_megabytes(["taskset", "-c", "0", *command, "--max-tokens", "20000", "--ignore-eos", "--json"])
    return json.loads(output)["tokens_per_second"]


def torch_rate(arguments, name):
    output, memory = peak_megabytes([sys.executable, HERE / "torch_moegru.py", *arguments])
    return float(re.search(rf"{name} ([\d.]+)", output).group(1)), memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile the peer")
    parser.add_argument("--kernel", help="shoestring's kernels, such as avx2")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--text", default=HERE.parent.parent / "data" / "conversations.txt")
    options = parser.parse_args()
    flags = ["--threads", options.threads] + (["--compile"] if options.compile else [])
    rows = {"shoestring training": [], "PyTorch training": [], "shoestring decoding": [], "PyTorch decoding": []}
    memory = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            rate, memory["shoestring"] = shoestring_training(options.text, options.kernel, options.threads, folder)
            rows["shoestring training"].append(rate)
            rate, memory["PyTorch"] = torch_rate(flags, "train_tok_s")
            rows["PyTorch training"].append(rate)
            rows["shoestring decoding"].append(shoestring_decoding(folder, options.kernel))
            rows["PyTorch decoding"].append(torch_rate(["--threads", "1", "--decode", "500"], "decode_tok_s")[0])
    for name, rates in rows.items():
        print(f"{name:22} {statistics.median(rates):10.0f} tokens/s   ({', '.join(f'{r:.0f}' for r in rates)})")
    for what in ["training", "decoding"]:
        ours, theirs = (statistics.median(rows[f"{who} {what}"]) for who in ["shoestring", "PyTorch"])
        print(f"{what} ratio {ours / theirs:.2f}")
    print(f"peak memory in training: shoestring {memory['shoestring']:.0f} MB, PyTorch {memory['PyTorch']:.0f} MB")


main()
