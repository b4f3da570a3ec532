// Verifies one report with its certificates over and over, as go-sev-guest does without a network,
// and prints the least seconds of processor time that one verification took.
//
//	main REPORT VEK ASK ARK ROUNDS
package main

import (
	"encoding/pem"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
)

func read(path string) []byte {
	bytes, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	if block, _ := pem.Decode(bytes); block != nil {
		return block.Bytes
	}
	return bytes
}

func clock() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(usage.Utime) + seconds(usage.Stime)
}

func main() {
	report, err := abi.ReportToProto(read(os.Args[1]))
	if err != nil {
		panic(err)
	}
	product, err := kds.ParseProductLine("Milan")
	if err != nil {
		panic(err)
	}
	attestation := &spb.Attestation{
		Report: report,
		CertificateChain: &spb.CertificateChain{
			VcekCert: read(os.Args[2]), AskCert: read(os.Args[3]), ArkCert: read(os.Args[4]),
		},
		Product: product,
	}
	options := verify.DefaultOptions()
	options.DisableCertFetching = true
	options.Product = product
	rounds, err := strconv.Atoi(os.Args[5])
	if err != nil {
		panic(err)
	}
	// The clock is coarse: the least of blocks of twenty.
	best := 1e9
	for block := 0; block < rounds; block++ {
		start := clock()
		for range 20 {
			if err := verify.SnpAttestation(attestation, options); err != nil {
				panic(err)
			}
		}
		best = min(best, (clock()-start)/20)
	}
	fmt.Println(best)
}
