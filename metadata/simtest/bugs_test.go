package simtest_test

import (
	"slices"
	"strings"
	"testing"
)

// TestBugsAreFound plants one bug at a time: the simulation proves something
// only if it finds each of them, within a few seeds.
func TestBugsAreFound(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("bugs are planted without -short")
	}
	for _, test := range []struct {
		name  string
		bugs  bugs
		seeds int
		by    []string // one of them is in the message
	}{
		{"unsynced log", bugs{unsynced: true}, 10, []string{"has stopped", "does not open", "has applied"}},
		{"unsynced tables", bugs{tables: true}, 20, []string{"does not open", "has stopped"}},
		{"entries count as stored before they are", bugs{early: true}, 20, []string{"has stopped", "has applied", "does not open"}},
		{"stale read", bugs{staleRead: true}, 10, []string{"was answered from position", "no such bucket"}},
		{"read before the answer is applied", bugs{hasty: true}, 20, []string{"was answered from position", "no such bucket"}},
		{"lost dedupe", bugs{noRequest: true}, 10, []string{"the model's answer"}},
		{"log cut at the live mark", bugs{liveCut: true}, 10, []string{"the log begins behind the state"}},
		{"close without flush", bugs{noFlush: true}, 10, []string{"as the only copy"}},
		{"blank voter under its old id", bugs{sameID: true}, 40, []string{"has stopped", "has applied"}},
		{"fence unknown to a group", bugs{fenceless: true}, 20, []string{"which had ended before"}},
		{"version raised too early", bugs{eager: true}, 20, []string{"start a newer one"}},
		{"snapshots of rows that were not compared", bugs{hearsay: true}, 40, []string{"has not the rows", "says that the rows of"}},
		{"lost row", bugs{rot: true}, 20, []string{"differ", "another result", "the model", "rows"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(test.seeds) {
				p := planOf(1000 + seed)
				p.bugs = test.bugs
				err := newSim(p).play(p)
				if err == nil {
					continue
				}
				text, _, _ := strings.Cut(err.Error(), "\n")
				if !slices.ContainsFunc(test.by, func(s string) bool { return strings.Contains(err.Error(), s) }) {
					t.Errorf("found, but not by what it does: %s", text)
				}
				t.Logf("found by seed %d: %.300s", p.seed, text)
				return
			}
			t.Errorf("not found by %d seeds", test.seeds)
		})
	}
}
