#!/usr/bin/env bash
# Installs @sigstore/mock, a stand-in for Fulcio and Rekor; see npm.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/npm.sh" sigstore-mock
