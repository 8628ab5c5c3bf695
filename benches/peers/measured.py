"""Running a command and measuring it."""
import subprocess
import sys


def peak_megabytes(command):
    """Runs a command; its stdout, and the peak resident set size of it alone."""
    code = (
        "import resource,subprocess,sys;p=subprocess.run(sys.argv[1:],capture_output=True,text=True);"
        "sys.stderr.write(p.stderr if p.returncode else '');"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1024);print(p.stdout);sys.exit(p.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    memory, _, output = done.stdout.partition("\n")
    return output, float(memory)
