# shellcheck shell=bash
# Sourced, with a NAME, by what installs a peer: `here` is this folder, `folder` is that peer's own
# below the target directory. Its lock is held until the script ends, so two may run at once.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers=${CARGO_TARGET_DIR:-$here/../../target}/peers
mkdir -p "$peers"
peers=$(cd "$peers" && pwd)
folder=$peers/$1

exec 9>"$folder.lock"
flock 9
