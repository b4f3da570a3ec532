#!/usr/bin/env bash
# Installs the Python library sigstore; see venv.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/venv.sh" sigstore-python
