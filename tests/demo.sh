#!/usr/bin/env bash
# The main job, as a person would type it: build, measure, launch, attest, SSH in.
# usage: demo.sh CASEMATE RECIPE OUT
set -euo pipefail

casemate=$(realpath "$1") recipe=$2 out=$3
image=$(basename "$recipe")
release=$out/$image
vm=demo-$$

step() { printf '\n\033[1m$ casemate %s\033[0m\n' "$*" >&2; "$casemate" "$@"; }
# The fields of the VM's record that the following steps need.
field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$out/demo/vm.json" "$1"; }

mkdir -p "$out/demo"
rm -f "$out/demo/id_ed25519" "$out/demo/id_ed25519.pub"
ssh-keygen -q -t ed25519 -N '' -C demo -f "$out/demo/id_ed25519"
trap '"$casemate" stop "$vm" >/dev/null 2>&1 || true' EXIT

step image build "$recipe" --platform simulated --output "$release"
step run "$release" --platform simulated --name "$vm" --ssh-key "$out/demo/id_ed25519.pub" \
    --format json >"$out/demo/vm.json"
step ps
root=$("$casemate" simulated-root)
step verify "$(field evidence_address)" --release "$release" --trust-simulated "$root" \
    --only-key "$out/demo/id_ed25519.pub"
# The command asks the guest who runs it and what it runs on; its answer ends the demo.
answer=$(step ssh "$(field evidence_address)" --release "$release" --trust-simulated "$root" \
    --only-key "$out/demo/id_ed25519.pub" --ssh-port "$(field ssh_port)" --identity "$out/demo/id_ed25519" -- \
    'echo "inside: $(id -un) on $(uname -sr), root $(findmnt -no FSTYPE /), $(podman --version)"')
printf '%s\n' "$answer"
step stop "$vm"
case $answer in
    *'inside: sandbox on Linux'*erofs*)
        printf '\nThe session ran in the VM whose measurement was verified. The platform was SIMULATED: it proves nothing.\n' ;;
    *) echo "demo: the session did not answer as expected" >&2; exit 1 ;;
esac
