"""Asks sev-snp-measure for launch digests: a JSON array of launches on stdin, one answer each.

Run by the Python of the environment that sev-snp-measure.sh makes. Prints a JSON object with the
CPU models and the VMMs that the tool knows and the digests in order.
"""
import json
import sys

from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType


VMMS = {vmm.name.lower(): vmm for vmm in VMMType}


def digest(launch):
    return guest.calc_launch_digest(
        SevMode.SEV_SNP, launch["vcpus"], vcpu_types.CPU_SIGS[launch["cpu_model"]],
        launch["firmware"], launch["kernel"], launch["initrd"], launch["cmdline"],
        launch["guest_features"], vmm_type=VMMS[launch["vmm"]]).hex()


json.dump({"cpu_models": list(vcpu_types.CPU_SIGS), "vmms": list(VMMS),
           "digests": [digest(launch) for launch in json.load(sys.stdin)]}, sys.stdout)
