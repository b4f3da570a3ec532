#!/usr/bin/env bash
# Installs moto, a stand-in for S3; see venv.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/venv.sh" moto
