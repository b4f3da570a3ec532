#!/usr/bin/env python3
"""Moves a synthetic release of a disk image to docker-registry on the loopback interface and back,
with casemate and with oras, then a second version of it in which one package changed. Prints
tables for docs/performance.md.

    tests/bench_store.py TRANSFER [MIB] [--quick]

TRANSFER is the example of that name: cargo build --release -p casemate-registry --example transfer.
`--quick` moves 64 MiB, to see that it runs: its figures mean nothing, and peers that cannot be had are
a reason to skip it.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def peer(name):
    out = subprocess.run(["bash", HERE / "peers" / name], check=True, stdout=subprocess.PIPE)
    return out.stdout.decode().strip()


def registry(folder):
    """Starts docker-registry and returns it with its port."""
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: info}\nstorage:\n"
        f"  filesystem: {{rootdirectory: {folder}/data}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
    )
    server = subprocess.Popen(
        [peer("docker-registry.sh"), "serve", config],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )
    for line in server.stderr:
        if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", line):
            break
    threading.Thread(target=server.stderr.read, daemon=True).start()
    return server, int(found.group(1))


def timed(command, cwd=None):
    """Runs a command; its output, seconds, processor seconds and peak MiB."""
    since = time.monotonic()
    child = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True)
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command} ended with {child.returncode}")
    seconds = time.monotonic() - since
    return out, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def packages(seed, mebibytes):
    """Files of a disk: incompressible, of lengths as packages have them, with a run of zeros."""
    draw = random.Random(seed)
    left = mebibytes * 1024 * 1024
    while left > 0:
        size = min(left, draw.randrange(4096, 8 << 20))
        yield draw.randbytes(size)
        left -= size


def main():
    quick = "--quick" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--quick"]
    transfer = Path(arguments[0]).resolve()
    mebibytes = int(arguments[1]) if len(arguments) > 1 else 64 if quick else 2048
    try:
        oras = peer("oras.sh")
        peer("docker-registry.sh")
    except subprocess.CalledProcessError as error:
        if not quick:
            raise
        sys.exit(print(f"bench: skipped: {error.cmd[-1]} cannot install its peer here", file=sys.stderr))
    rows = []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        folder = Path(folder)
        one, two = folder / "one", folder / "two"
        one.mkdir()
        two.mkdir()
        with open(one / "root.img", "wb") as a, open(two / "root.img", "wb") as b:
            for number, content in enumerate(packages(1, mebibytes)):
                a.write(content)
                # One package gained a few hundred bytes and lies elsewhere in the image.
                b.write(random.Random(2).randbytes(len(content) + 700) if number == 40 else content)
        server, port = registry(folder)
        try:
            place = f"127.0.0.1:{port}"
            ours, theirs = f"oci://{place}/ours", f"{place}/theirs"

            def ours_push(version, tag):
                return timed([transfer, "push", folder / version, f"{ours}:{tag}"])

            def ours_pull(tag):
                return timed([transfer, "pull", f"{ours}:{tag}", folder / "out"])

            def theirs_push(version, tag):
                return timed([oras, "push", "--plain-http", f"{theirs}:{tag}",
                              "root.img:application/octet-stream"], cwd=folder / version)

            def theirs_pull(tag):
                return timed([oras, "pull", "--plain-http", "-o", folder / "theirs",
                              f"{theirs}:{tag}"])

            for what, mine, other in [
                ("push", lambda: ours_push("one", "1"), lambda: theirs_push("one", "1")),
                ("pull", lambda: ours_pull("1"), lambda: theirs_pull("1")),
                ("push, one package changed", lambda: ours_push("two", "2"),
                 lambda: theirs_push("two", "2")),
                ("pull, one package changed", lambda: ours_pull("2"), lambda: theirs_pull("2")),
            ]:
                a, b = mine(), other()
                moved = json.loads(a[0])["moved"]
                version = "two" if "changed" in what else "one"
                rows.append((what, a, b, moved, (folder / version / "root.img").stat().st_size))
                if "pull" in what and subprocess.run(
                        ["cmp", folder / "out" / "root.img", folder / version / "root.img"]).returncode:
                    sys.exit("what was pulled is not what was pushed")
                if what == "pull":
                    # A pull replaces a release alone.
                    (folder / "out" / "manifest.json").write_text("{}")
        finally:
            server.kill()
    print("| what | casemate | oras 1.2.0 | ratio | casemate moved | oras moved | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for what, a, b, moved, size in rows:
        print(f"| {what} | {a[1]:.2f} s | {b[1]:.2f} s | {b[1] / a[1]:.2f}x | {moved / 1e6:,.1f} MB "
              f"| {size / 1e6:,.1f} MB | {a[3]:.0f}, {b[3]:.0f} |")


if __name__ == "__main__":
    main()
