#!/usr/bin/env python3
"""Fetches what a package-lock.json names, each archive by its hash, into FOLDER/node_modules. Runs
none of it. Debian's npm would bring 400 packages along for these few.

  npm.py LOCK FOLDER
"""
import base64
import concurrent.futures
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request

lock, folder = (pathlib.Path(argument) for argument in sys.argv[1:3])


def registry():
    named = os.environ.get("npm_config_registry")
    if named:
        return named.rstrip("/")
    try:  # What this machine uses, where npm is there to say it.
        said = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True)
        if said.returncode == 0 and said.stdout.startswith("http"):
            return said.stdout.strip().rstrip("/")
    except OSError:
        pass
    sys.exit("npm.py: no npm registry is known: set npm_config_registry, or install npm")


source = registry()


def install(path, entry):
    name = path.rpartition("node_modules/")[2]
    base = name.rpartition("/")[2]
    url = f"{source}/{urllib.parse.quote(name, safe='@/')}/-/{base}-{entry['version']}.tgz"
    with urllib.request.urlopen(url, timeout=120) as answer:
        archive = answer.read()
    algorithm, _, expected = entry["integrity"].partition("-")
    found = base64.b64encode(hashlib.new(algorithm, archive).digest()).decode()
    if found != expected:
        sys.exit(f"{name} {entry['version']}: {algorithm} is {found}, expected {expected}")
    target = folder / path
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            inner = pathlib.PurePosixPath(*pathlib.PurePosixPath(member.name).parts[1:])
            if not member.isfile() or ".." in inner.parts:
                continue
            (target / inner).parent.mkdir(parents=True, exist_ok=True)
            (target / inner).write_bytes(files.extractfile(member).read())


packages = json.loads(lock.read_text())["packages"].items()
wanted = [(path, entry) for path, entry in packages if path and not entry.get("dev")]
with concurrent.futures.ThreadPoolExecutor(max_workers=8) as workers:
    try:
        for done in [workers.submit(install, *one) for one in wanted]:
            done.result()
    except BaseException:
        workers.shutdown(cancel_futures=True)
        raise
