package simtest

import (
	"flag"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	simSeed = flag.Uint64("sim-seed", 1, "seed of the simulations")
	simCuts = flag.Int("sim-cuts", 0, "power cuts; 0 means 3,000, and 6 with -short")
	simAll  = flag.Bool("sim-all", false, "every call and every position, not some of them")
)

const cutsOfWorld = 20

// long leaves a test to the run without the race detector, in which a start of a
// store takes ten times as long.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("whole stores are simulated without -short")
	}
}

// TestPowerCuts is T-SIM of the reliability plan for a whole store: metadata,
// drives and engine together lose nothing that was acknowledged, bring nothing
// back that was deleted, and leave nothing behind that is not collected.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	total := *simCuts
	if total == 0 {
		total = 3000
		if testing.Short() {
			total = 6
		}
	}
	// A start with 12 drives costs four times as much as one with three.
	for _, shape := range []struct {
		drives int
		copies int // of the metadata
		share  int // of the cuts, in a hundred
	}{{1, 1, 10}, {3, 1, 42}, {6, 1, 40}, {12, 1, 5}, {3, 3, 3}} {
		t.Run(fmt.Sprintf("%d-%d", shape.drives, shape.copies), func(t *testing.T) {
			t.Parallel()
			p := smallPlan(shape.drives)
			p.spare, p.copies = shape.drives == 3, shape.copies
			image := newImage(t, p)
			began := time.Now()
			var cuts, looks, quiet, late, rotten atomic.Int64
			want := total * shape.share / 100
			if testing.Short() && want == 0 {
				t.Skip("left to the run without -short")
			}
			for n := 0; int(cuts.Load()) < want; n++ {
				seed := *simSeed<<32 + uint64(shape.drives)<<24 + uint64(shape.copies)<<20 + uint64(n)
				synctest.Test(t, func(t *testing.T) {
					w, first := newWorld(p, image, seed)
					err := w.run(t.Context(), first, min(cutsOfWorld, want))
					cuts.Add(int64(w.cuts))
					looks.Add(int64(w.looks))
					quiet.Add(int64(w.quiet))
					rotten.Add(int64(w.rotten))
					late.Add(int64(w.lateCommits))
					if err != nil {
						t.Errorf("world %s: %v", strconv.FormatUint(seed, 10), err)
					}
				})
				if t.Failed() {
					break
				}
			}
			t.Logf("seed %d: %s on %d drives, metadata %d times, %d cuts, %d starts, collected to the end %d times, %d late commits, %d bytes rotten, %.0f cuts/s",
				*simSeed, p.scheme, p.drives, p.copies, cuts.Load(), looks.Load(), quiet.Load(), late.Load(), rotten.Load(), float64(cuts.Load())/time.Since(began).Seconds())
		})
	}
}
