package replica_test

import (
	"fmt"
	"testing"
)

// TestLogTurns lets stores write so much that they bring their states to tables
// and cut their logs, although no memtable is full.
func TestLogTurns(t *testing.T) {
	t.Parallel()
	o := engineOptions()
	o.MemTableBytes, o.LogMemTableBytes, o.TurnBytes = 32<<20, 32<<20, 128<<10
	o.Limits.KeepBytes = 8 << 10
	e := openReplicated(t, places(t, 3), o)
	prepareReplicated(t, e)
	body := string(make([]byte, 4<<10))
	n := 0
	waitFor(t, "all logs to be cut", func() bool {
		if n++; n > 3000 {
			t.Fatal("the memtables were filled before")
		}
		c := put(request(n, n), fmt.Sprint("k", n), body)
		c.CommitVersion.Version.ETag = "e"
		if _, err := e.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for _, s := range e.Status(t.Context()) {
			g := s.Groups[testBucket.Group]
			if g.First < 30 {
				return false
			}
		}
		return true
	})
	for i := 1; i <= n; i++ {
		if _, err := e.Open(t.Context(), testBucket, fmt.Sprint("k", i), ""); err != nil {
			t.Fatalf("k%d: %v", i, err)
		}
	}
}
