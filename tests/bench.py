#!/usr/bin/env python3
"""Measures what docs/performance.md says, in one run, and prints it as Markdown.

usage: bench.py CASEMATE RECIPE [--runs N] [--no-peer] [--no-boot] [--quick]

Build: `casemate image build` with a warm package cache, in four states of its other caches, beside
mmdebstrap (unpacking only) + mkfs.erofs + veritysetup on the same closure, and the floor: decompress, hash and
write the same bytes and do nothing else. Boot: from QEMU's start to a verified SSH session, by
phase. Every figure is a whole process seen from outside: wall and processor time, and the peak
memory of its largest process as wait4(2) tells it. `--quick` runs everything once, to see that it
runs: its figures mean nothing.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10 and older
    sys.exit("bench: needs Python 3.11 or newer")


def timed(argv, **env):
    """Runs argv to its end: wall seconds, processor seconds, peak MiB, standard output."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        child = subprocess.Popen([str(word) for word in argv], env={**os.environ, **env},
                                 stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode != 0:
            sys.exit(f"bench: {argv} ended with {child.returncode}:\n{err.read().decode()[-3000:]}")
        return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime,
                "mib": usage.ru_maxrss / 1024, "out": out.read()}


def row(name, runs, base=None):
    wall = [run["wall"] for run in runs]
    median = statistics.median(wall)
    ratio = f"{base / median:.1f}x" if base else ""
    print(f"| {name} | {median:.2f} | {min(wall):.2f}-{max(wall):.2f} | "
          f"{statistics.median(run['cpu'] for run in runs):.2f} | "
          f"{max(run['mib'] for run in runs):.0f} | {ratio} |", flush=True)
    return median


class Build:
    """The builds, and what they are compared with."""

    def __init__(self, casemate, recipe, scratch, runs):
        self.casemate, self.recipe, self.scratch, self.runs = casemate, recipe, scratch, runs
        self.cache = pathlib.Path(os.environ.get("CASEMATE_CACHE") or
                                  pathlib.Path.home() / ".cache/casemate")
        lock = tomllib.loads((recipe / "image.lock").read_text())
        self.guest = [p for p in lock["package"]
                      if {"guest", "kernel"} & set(p["closures"])]

    def blob(self, package):
        return self.cache / "blobs/sha256" / package["sha256"]

    def casemate_run(self, cache, recipe=None):
        return timed([self.casemate, "image", "build", recipe or self.recipe, "--offline",
                      "--platform", "simulated", "--output", self.scratch / "release"],
                     CASEMATE_CACHE=str(cache))

    def fresh_cache(self, *keep):
        """A cache that shares its downloads with the real one and holds `keep` beside."""
        cache = self.scratch / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        for name in ("blobs", *keep):
            subprocess.run(["cp", "-al", self.cache / name, cache / name], check=True)
        return cache

    def floor(self):
        """Decompress, hash and write the same bytes, one process per processor, in C libraries."""
        script = ("import sys,lzma,hashlib\n"
                  "for p in sys.argv[2:]:\n"
                  " d=open(p,'rb').read(); hashlib.sha256(d)\n"
                  " i=8; out=open(sys.argv[1],'ab')\n"
                  " while i<len(d):\n"
                  "  n=d[i:i+16].decode().strip().rstrip('/'); s=int(d[i+48:i+58])\n"
                  "  if n.startswith('data.tar'):\n"
                  "   b=d[i+60:i+60+s]; b=lzma.decompress(b) if n.endswith('xz') else b; out.write(b)\n"
                  "  i+=60+s+(s&1)\n")
        files = sorted((self.blob(p) for p in self.guest), key=lambda p: -p.stat().st_size)
        halves = [files[i::os.cpu_count()] for i in range(os.cpu_count())]
        start = time.monotonic()
        children = [subprocess.Popen([sys.executable, "-c", script, self.scratch / f"floor{i}",
                                      *half]) for i, half in enumerate(halves)]
        usage = [os.wait4(child.pid, 0)[2] for child in children]
        wall = time.monotonic() - start
        for i in range(len(halves)):
            (self.scratch / f"floor{i}").unlink()
        return {"wall": wall, "cpu": sum(u.ru_utime + u.ru_stime for u in usage),
                "mib": max(u.ru_maxrss for u in usage) / 1024}

    def stand_ins(self, debs):
        """Empty packages in place of those that the image leaves out but its packages depend on: apt
        solves over dependencies, and shall find the very packages of the lock and no others."""
        field = lambda deb, name: subprocess.run(["dpkg-deb", "-f", deb, name], check=True,
                                                 capture_output=True, text=True).stdout.strip()
        have, clauses = set(), []
        for package in self.guest:
            if "guest" not in package["closures"]:
                continue
            deb = self.blob(package)
            have.add(package["name"])
            have |= {p.split("(")[0].strip() for p in field(deb, "Provides").split(",")}
            for name in ("Pre-Depends", "Depends"):
                clauses += filter(None, map(str.strip, field(deb, name).split(",")))
        versions = {}
        for clause in clauses:
            found = [re.fullmatch(r"([^\s(:]+)(?::\w+)?\s*(?:\((\S+)\s+(\S+)\))?", alternative.strip())
                     for alternative in clause.split("|")]
            if not any(alternative[1] in have for alternative in found):
                name, relation, version = found[0].groups()
                exact = version if relation in ("=", "<=") else None
                versions[name] = exact or versions.get(name, "9999")
        for name, version in versions.items():
            with tempfile.TemporaryDirectory() as folder:
                control = pathlib.Path(folder) / "DEBIAN/control"
                control.parent.mkdir()
                control.write_text(f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
                                   "Multi-Arch: allowed\nMaintainer: none <none@invalid>\n"
                                   "Description: left out\n")
                subprocess.run(["dpkg-deb", "--build", folder, debs / f"{name}_stand-in.deb"],
                               check=True, capture_output=True)

    def peer(self):
        """mmdebstrap (unpacking only, no maintainer scripts), mkfs.erofs and veritysetup over local
        .debs, no network."""
        debs = self.scratch / "debs"
        if not debs.exists():
            debs.mkdir()
            for package in self.guest:
                (debs / pathlib.Path(package["path"]).name).symlink_to(self.blob(package))
            self.stand_ins(debs)
            index = subprocess.run(["dpkg-scanpackages", "-m", "."], cwd=debs, check=True,
                                   capture_output=True).stdout
            (debs / "Packages").write_bytes(index)
        tar, image = self.scratch / "peer.tar", self.scratch / "peer.img"
        image.unlink(missing_ok=True)
        # None where a stage makes the kernel: its bytes are beside the image, not in it.
        kernels = [p["name"] for p in self.guest if "kernel" in p["closures"]]
        unpacked = "".join(f"dpkg-deb --fsys-tarfile {debs}/{kernel}_*.deb | "
                           f"tar -C {self.scratch}/peer --keep-directory-symlink -x && "
                           for kernel in kernels)
        wanted = [p["name"] for p in self.guest if "guest" in p["closures"]]
        script = (f"mmdebstrap --quiet --variant=extract --mode=root "
                  f"--include='?essential' --include={','.join(wanted)} --skip=check/qemu "
                  f"trixie {tar} 'deb [trusted=yes] copy:{debs} ./' && "
                  f"mkdir -p {self.scratch}/peer && tar -C {self.scratch}/peer -xf {tar} && {unpacked}"
                  f"mkfs.erofs -zlz4 -T0 {image} {self.scratch}/peer >/dev/null && "
                  f"veritysetup format --salt=00 {image} {image}.tree >/dev/null")
        shutil.rmtree(self.scratch / "peer", ignore_errors=True)
        return timed(["bash", "-euc", script])

    def one_package_changed(self, cache):
        """The same build, but one package has to be unpacked anew."""
        package = next(p for p in self.guest if p["name"] == "openssh-server")
        for path in (cache / "unpacked").glob(f"{package['sha256']}*"):
            path.unlink()
        shutil.rmtree(cache / "images", ignore_errors=True)
        return self.casemate_run(cache)

    def measure(self, peer):
        timed([self.casemate, "image", "build", self.recipe, "--platform", "simulated",
               "--output", self.scratch / "release"])
        total = sum(p["size"] for p in self.guest)
        print(f"\n## Build\n\n{len(self.guest)} guest packages, {total / 1e6:.0f} MB; median of "
              f"{self.runs} runs, seconds; ratio to the peer.\n")
        print("| what | wall | min-max | processor | peak MiB | peer / this |")
        print("| --- | --- | --- | --- | --- | --- |")
        base = None
        if peer:
            runs = [self.peer() for _ in range(min(self.runs, 2))]
            base = row("mmdebstrap (extract) + mkfs.erofs + veritysetup", runs)
        floor = row("decompress, hash and write alone (liblzma)", [self.floor() for _ in range(self.runs)])
        keep = ("tools", "programs", "stages", "steps")
        first = row("casemate, packages to unpack", [
            self.casemate_run(self.fresh_cache(*[k for k in keep if (self.cache / k).exists()]))
            for _ in range(self.runs)], base)
        cache = self.scratch / "cache"
        row("casemate, one package to unpack", [self.one_package_changed(cache)
                                               for _ in range(self.runs)], base)
        row("casemate, nothing changed", [self.casemate_run(cache) for _ in range(self.runs)], base)
        print(f"\ncasemate with packages to unpack takes {first / floor:.2f}x of decompressing, hashing and writing alone.")
        print("\n| artifact | MiB |\n| --- | --- |")
        for path in sorted((self.scratch / "release").iterdir()):
            print(f"| {path.name} | {path.stat().st_size / 2**20:.2f} |")


def boot(casemate, scratch, runs):
    """QEMU's start to the end of a command over a verified SSH session."""
    release, key = scratch / "release", scratch / "key"
    key.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    root = timed([casemate, "simulated-root"])["out"].decode().strip()
    print("\n## Boot\n\nSeconds from QEMU's start, 2 vCPUs.\n")
    for index in range(runs):
        name = f"bench-{os.getpid()}-{index}"
        vm = json.loads(timed([casemate, "run", release, "--platform", "simulated", "--name", name,
                               "--ssh-key", f"{key}.pub", "--format", "json"])["out"])
        try:
            judge = [vm["evidence_address"], "--release", release, "--trust-simulated", root]
            verify = timed([casemate, "verify", *judge])
            ssh = timed([casemate, "ssh", *judge, "--ssh-port", vm["ssh_port"], "--identity", key,
                         "--", "grep -E 'MemTotal|MemAvailable' /proc/meminfo"])
        finally:
            subprocess.run([casemate, "stop", name], check=False, capture_output=True)
        if index == 0:
            print(f"Accelerator: {vm['accel']}.\n\n| phase | run 1 |" +
                  "".join(f" run {i + 2} |" for i in range(runs - 1)))
            print("| --- |" + " --- |" * runs)
            table = {stage["text"]: [] for stage in vm["stages"]}
            table |= {"verify (after ready)": [], "ssh, verify included": []}
        for stage in vm["stages"]:
            table.setdefault(stage["text"], []).append(stage["seconds"])
        table["verify (after ready)"].append(verify["wall"])
        table["ssh, verify included"].append(ssh["wall"])
        memory = ssh["out"].decode()
    for name, values in table.items():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    print("\nGuest memory: " + "; ".join(" ".join(line.split()) for line in memory.splitlines()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("casemate", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("recipe", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--no-boot", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.runs = 1 if args.quick else args.runs
    peer = not args.no_peer
    if peer and not (shutil.which("mmdebstrap") and shutil.which("dpkg-scanpackages")
                     and os.geteuid() == 0):
        print("bench: no peer: needs root, mmdebstrap and dpkg-dev", file=sys.stderr)
        peer = False
    base = pathlib.Path(os.environ.get("CASEMATE_CACHE") or pathlib.Path.home() / ".cache")
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="casemate-bench-", dir=base) as scratch:
        scratch = pathlib.Path(scratch)
        Build(args.casemate, args.recipe, scratch, args.runs).measure(peer)
        if not args.no_boot:
            boot(args.casemate, scratch, min(args.runs, 3))


if __name__ == "__main__":
    main()
