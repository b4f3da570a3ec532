/* A stand-in for libnvidia-ml.so.1: answers what the file named by STAND_IN says, in the layout of
   NVIDIA's nvml.h. It signs nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3 };

static char text[4096];

static long number(const char *key) {
	char line[64];
	snprintf(line, sizeof line, "\n%s=", key);
	const char *at = strstr(text, line);
	return at ? strtol(at + strlen(line), NULL, 0) : 0;
}

int nvmlInit_v2(void) {
	const char *path = getenv("STAND_IN");
	FILE *file = path ? fopen(path, "r") : NULL;
	if (!file)
		return 9; /* driver not loaded */
	size_t len = fread(text, 1, sizeof text - 1, file);
	text[len] = 0;
	fclose(file);
	return OK;
}

int nvmlShutdown(void) { return OK; }

int nvmlSystemGetDriverVersion(char *version, unsigned len) {
	snprintf(version, len, "550.163.01");
	return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
	*count = (unsigned)number("gpus");
	return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
	if (index >= (unsigned)number("gpus"))
		return INVALID;
	*device = (void *)(size_t)(index + 1);
	return OK;
}

struct pci {
	char legacy[16];
	unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
	char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(void *device, struct pci *pci) {
	memset(pci, 0, sizeof *pci);
	pci->bus = (unsigned)((size_t)device - 1 + (size_t)number("first_bus"));
	pci->pci_device_id = (unsigned)number("device") << 16 | 0x10de;
	snprintf(pci->bus_id, sizeof pci->bus_id, "%08X:%02X:00.0", 0, pci->bus);
	return OK;
}

struct settings {
	unsigned version, environment, feature, devtools, multi_gpu;
};

int nvmlSystemGetConfComputeSettings(struct settings *settings) {
	if (settings->version != (sizeof *settings | 1u << 24))
		return 25; /* argument version mismatch */
	settings->environment = 2;
	settings->feature = (unsigned)number("confidential");
	settings->devtools = (unsigned)number("developer");
	settings->multi_gpu = 0;
	return OK;
}

struct report {
	unsigned cec_present, len, cec_len;
	unsigned char nonce[32], report[8192], cec[4096];
};

int nvmlDeviceGetConfComputeGpuAttestationReport(void *device, struct report *report) {
	if (number("silent"))
		return NOT_SUPPORTED;
	static const unsigned char request[4] = { 0x11, 0xe0, 0x01, 0xff };
	memcpy(report->report, request, 4);
	memcpy(report->report + 4, report->nonce, 32);
	if (number("stale"))
		report->report[4] ^= 1;
	report->report[36] = 0;
	report->report[37] = (unsigned char)(size_t)device;
	report->len = 38;
	return OK;
}

struct certificates {
	unsigned len, attestation_len;
	unsigned char chain[4096], attestation[5120];
};

int nvmlDeviceGetConfComputeGpuCertificate(void *device, struct certificates *certificates) {
	(void)device;
	memcpy(certificates->attestation, "PEM", 3);
	certificates->attestation_len = 3;
	return OK;
}

static unsigned ready;

int nvmlSystemSetConfComputeGpusReadyState(unsigned accepting) {
	ready = number("deaf") ? 0 : accepting;
	return OK;
}

int nvmlSystemGetConfComputeGpusReadyState(unsigned *accepting) {
	*accepting = ready;
	return OK;
}
