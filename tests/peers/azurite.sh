#!/usr/bin/env bash
# Installs Azurite's blob server, a stand-in for Azure Blob Storage; see npm.sh. Of what Azurite asks
# for, the lock has what server.cjs loads: no database, no telemetry.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/npm.sh" azurite
