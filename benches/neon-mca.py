#!/usr/bin/env python3
"""What the inner loops of the NEON kernels can reach on ARM cores, by LLVM's models of them: benches/neon-mca.py

Compiles the kernels for arm64, takes from each operation's assembly the loop that multiplies most, and has llvm-mca
simulate it. For each loop and core it prints the instructions of one round, the cycles that those which multiply alone
would take, those that the core's busiest units need for all of it, and those that the simulation took. The ratio, of
the first and the last, is the part of the core's peak the loop can reach while its data comes from the first-level
cache.

The model of the Cortex-A53 lets nothing finish before an older instruction has: a load after a multiply-add, whose
latency is 10, waits for it. Independent multiply-adds with a few loads among them, as in probe_multiply_adds, show it.

Needs the toolchain that `.ci/neon` needs, but no linker, and llvm-mca (Debian: llvm-19, or llvm). MCA names another one.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = "aarch64-unknown-linux-gnu"
# LLVM 19 has no model of its own for Cortex-A76; Neoverse N1 is that core made for servers.
CORES = {"Cortex-A53": "cortex-a53", "Cortex-A72": "cortex-a72", "Cortex-A76": "neoverse-n1"}
# The module and the operation.
LOOPS = [
    ("neon", "gemm"),
    ("neon", "weight_gradient"),
    ("neon", "probe_multiply_adds"),
    ("neon", "gemm_q8"),
    ("neon_dotprod", "gemm_q8"),
]
# The models of the others have the dot product too, which those cores lack.
HAVE_DOTPROD = ["Cortex-A76"]
ROUNDS = 200

# What multiplies, as independent instructions: the models' own throughput of each is measured on these.
MULTIPLIES = {
    "fmla": "fmla v{0}.4s, v30.4s, v31.s[0]",
    "smull": "smull v{0}.8h, v30.8b, v31.8b",
    "smull2": "smull2 v{0}.8h, v30.16b, v31.16b",
    "smlal": "smlal v{0}.8h, v30.8b, v31.8b",
    "smlal2": "smlal2 v{0}.8h, v30.16b, v31.16b",
    "sdot": ".arch_extension dotprod\nsdot v{0}.4s, v30.16b, v31.16b",
}
INDEPENDENT = 24


def main():
    mca = os.environ.get("MCA") or next(filter(shutil.which, ["llvm-mca-19", "llvm-mca"]), None)
    if mca is None:
        sys.exit("neon-mca: there is no llvm-mca; install it (Debian: llvm-19) or name it in MCA")
    assembly = compile_kernels()
    loops = {f"{module} {operation}": busiest_loop(assembly, module, operation) for module, operation in LOOPS}
    print(version(mca))
    print(f"{'loop':24} {'core':10} {'instructions':>12} {'multiplies':>10} {'bound':>6} {'units':>6} {'simulated':>9} {'ratio':>5}")
    for name, core in CORES.items():
        for loop, instructions in loops.items():
            if "dotprod" in loop and name not in HAVE_DOTPROD:
                continue
            multiplies = [mnemonic for mnemonic in map(multiply, instructions) if mnemonic]
            bound = sum(cycles_alone(mca, core, mnemonic) for mnemonic in multiplies)
            cycles, units = simulate(mca, core, "\n".join(instructions))
            print(
                f"{loop:24} {name:10} {len(instructions):12} {len(multiplies):10} {bound:6.1f} {units:6.1f} {cycles:9.1f}"
                f" {bound / cycles:5.2f}"
            )


@functools.cache
def cycles_alone(mca, core, mnemonic):
    """Cycles of one such instruction where nothing else limits it."""
    independent = "\n".join(map(MULTIPLIES[mnemonic].format, range(INDEPENDENT)))
    return simulate(mca, core, independent)[0] / INDEPENDENT


def compile_kernels():
    """The assembly of the kernels, by the same compiler as `.ci/neon` uses."""
    environment = dict(os.environ)
    if subprocess.run([REPOSITORY / ".ci/neon", "--has-target"]).returncode != 0:
        environment["RUSTC"] = "/usr/bin/rustc"
    folder = Path(environment.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "neon-mca"
    command = ["cargo", "rustc", "--package", "shoestring-kernels", "--lib", "--release", "--target", TARGET]
    command += ["--target-dir", folder, "--config", "profile.release.lto=false", "--message-format=json"]
    command += ["--", "--emit=asm"]
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"neon-mca: cargo failed with {run.returncode}")
    messages = map(json.loads, run.stdout.splitlines())
    library = next(
        Path(message["filenames"][-1])
        for message in messages
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "shoestring_kernels"
    )
    return (library.parent / f"{library.stem.removeprefix('lib')}.s").read_text().splitlines()


def busiest_loop(assembly, module, operation):
    """The innermost loop of a function that multiplies most, of those that only multiply and add."""
    name = re.compile(rf"_ZN\S*{len(module)}{module}{len(operation)}{operation}17h[0-9a-f]+E:$")
    start = next(i for i, line in enumerate(assembly) if name.match(line))
    end = next(i for i in range(start, len(assembly)) if ".cfi_endproc" in assembly[i])
    labels, loops = {}, []
    for i in range(start, end):
        if label := re.match(r"(\.L\w+):", assembly[i]):
            labels[label[1]] = i
        jump = re.match(r"\s+(?:b|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.L\w+)", assembly[i])
        if jump and jump[1] in labels:
            body = assembly[labels[jump[1]] + 1 : i + 1]
            if not any(line.startswith(".L") for line in body):
                loops.append([line.strip() for line in body if re.match(r"\s+[a-z]", line)])
    only_multiply = [loop for loop in loops if not any(re.match(r"fdiv|fmax|fcm|fabs", line) for line in loop)]
    return max(only_multiply, key=lambda loop: sum(multiply(line) is not None for line in loop))


def multiply(line):
    """The mnemonic of an instruction that multiplies, else None."""
    mnemonic = line.split()[0]
    return mnemonic if mnemonic in MULTIPLIES else None


def simulate(mca, core, loop):
    """Cycles of one round of many, and those that its busiest unit needs."""
    command = [mca, f"-mtriple={TARGET}", f"-mcpu={core}", f"-iterations={ROUNDS}", "-instruction-info=false"]
    command += ["-resource-pressure=false"]
    output = subprocess.run(command, input=loop, capture_output=True, text=True, check=True).stdout
    total, units = (re.search(rf"{name}:\s+([\d.]+)", output)[1] for name in ("Total Cycles", "Block RThroughput"))
    return int(total) / ROUNDS, float(units)


def version(mca):
    output = subprocess.run([mca, "--version"], capture_output=True, text=True, check=True).stdout
    return next(line.strip() for line in output.splitlines() if "version" in line)


main()
