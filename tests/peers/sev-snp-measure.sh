#!/usr/bin/env bash
# Installs the Python tool sev-snp-measure; see venv.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/venv.sh" sev-snp-measure
