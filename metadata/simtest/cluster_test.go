package simtest_test

import (
	"flag"
	"fmt"
	"testing"
)

var (
	simSeed  = flag.Uint64("sim-seed", 1, "seed of the first simulated cluster")
	simSeeds = flag.Int("sim-seeds", 0, "how many clusters are simulated; 0 means as many as a change must pass")
)

func planOf(seed uint64) plan {
	return plan{seed: seed, stores: 3 + 2*int(seed%3/2), faults: 40 * second}
}

// TestCluster runs whole clusters through everything that can go wrong.
func TestCluster(t *testing.T) {
	t.Parallel()
	seeds := *simSeeds
	if seeds == 0 {
		seeds = 100
		if testing.Short() {
			seeds = 1
		}
	}
	for i := range seeds {
		seed := *simSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			p := planOf(seed)
			p.log = *simSeeds == 1
			s := newSim(p)
			err := s.play(p)
			if s.log != nil {
				t.Log(s.log)
			}
			t.Logf("%+v", s.counts)
			if err != nil {
				t.Errorf("%v\nrepeat it with -run Cluster -sim-seed=%d -sim-seeds=1", err, seed)
			}
		})
	}
}

// TestSeedsRepeat runs the same seeds twice: everything that was seen is the
// same, so that a failure can be looked at again.
func TestSeedsRepeat(t *testing.T) {
	t.Parallel()
	seeds := uint64(8)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			var digests [2][32]byte
			var logs [2]string
			for i := range digests {
				p := planOf(seed)
				p.log, p.exact = true, true
				s := newSim(p)
				if err := s.play(p); err != nil {
					t.Fatal(err)
				}
				digests[i], logs[i] = s.digest, fmt.Sprint(s.log, s.counts)
			}
			if digests[0] != digests[1] || logs[0] != logs[1] {
				t.Errorf("two runs of one seed differ:\n%s\n%s", logs[0], logs[1])
			}
		})
	}
}
