package faults

import (
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// TestLastVoter takes copies away until there is one, which stays.
func TestLastVoter(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	s.ok("metadata", "remove", "1", "--wait")
	s.ok("metadata", "remove", "2", "--wait")
	s.await("one copy", well(1))
	s.fails([]string{"metadata", "remove", "3"}, "last copy", "ruche metadata add")
	s.whole()
	s.stop()

	local := newStore(t, "1")
	local.fails([]string{"metadata", "remove", "1"}, "one copy", "ruche metadata add")
	local.whole()
	local.stop()
}

// TestQuorumLostAtStart: a minority does not start, and says what is missing
// and what helps. With the others back nothing is lost.
func TestQuorumLostAtStart(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	s.stop()
	for _, drive := range []string{"d1", "d3"} {
		s.move(s.meta(drive), s.meta(drive)+".away")
	}
	s.refused("copy 1 in", "copy 3 in", "1 of 3 copies", "mount", "ruche metadata force")
	s.move(s.meta("d1")+".away", s.meta("d1"))
	s.start()
	s.whole()
	s.stop()
	s.move(s.meta("d3")+".away", s.meta("d3"))
	s.start()
	s.await("three copies", well(3))
	s.whole()
	s.stop()
}

// TestQuorumLostWhileServing takes the directories of two of three copies away
// under a running server: it answers 503, does not hang, and says so.
func TestQuorumLostWhileServing(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	for _, drive := range []string{"d1", "d3"} {
		s.move(s.meta(drive), s.meta(drive)+".away")
	}
	deadline := time.Now().Add(patience)
	for code := ""; code != "ServiceUnavailable"; code = s.answers() {
		if time.Now().After(deadline) {
			t.Fatalf("GET answers %q", code)
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.mentions(s.ok("status"), []string{"has gone", "nothing is lost"})
	s.kill()
	s.refused("copy 1 in", "copy 3 in", "ruche metadata force")
	for _, drive := range []string{"d1", "d3"} {
		s.move(s.meta(drive)+".away", s.meta(drive))
	}
	s.start()
	s.await("three copies", well(3))
	s.whole()
	s.stop()
}

// TestForeignCopy has a copy of another cluster in the place of one of three,
// and of two.
func TestForeignCopy(t *testing.T) {
	t.Parallel()
	other := newStore(t, "3")
	other.stop()
	s := newStore(t, "3")
	s.stop()
	own := s.keep(s.meta("d2"))
	s.putBack(other.meta("d2"), s.meta("d2"))
	s.start()
	s.odd("d2", "refused")
	s.says("another store", "ruche metadata replace 2")
	s.whole()
	s.stop()

	third := s.keep(s.meta("d3"))
	s.putBack(other.meta("d3"), s.meta("d3"))
	s.refused("copy 2 in", "copy 3 in", "1 of 3 copies", "another store")

	s.putBack(own, s.meta("d2"))
	s.putBack(third, s.meta("d3"))
	s.start()
	s.await("three copies", well(3))
	s.whole()
	s.stop()

	// The only copy is foreign.
	one, stranger := newStore(t, "1"), newStore(t, "1")
	one.stop()
	stranger.stop()
	mine := one.keep(one.path("metadata"))
	one.putBack(stranger.path("metadata"), one.path("metadata"))
	one.refused("not the metadata of this cluster", "ruche recover")
	one.putBack(mine, one.path("metadata"))
	one.start()
	one.whole()
	one.stop()
}

// TestLogShorterThanState has a copy whose log was put back to an earlier time,
// and one without a log. It is replaced, and serves again.
func TestLogShorterThanState(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	s.stop()
	old := s.keep(filepath.Join(s.meta("d1"), "log"))
	s.start()
	s.fill("later", 40)
	s.stop()
	s.putBack(old, filepath.Join(s.meta("d1"), "log"))
	s.remove(filepath.Join(s.meta("d2"), "log"))
	s.refused("copy 1 in", "copy 2 in", "log", "ruche metadata force")

	// With one of them as it was, the store serves, and the other is replaced.
	s.t.Log("one of three")
	two := newStore(t, "3")
	two.stop()
	old = two.keep(filepath.Join(two.meta("d1"), "log"))
	two.start()
	two.fill("later", 40)
	two.stop()
	two.putBack(old, filepath.Join(two.meta("d1"), "log"))
	two.start()
	c := two.odd("d1", "refused", "failed")
	two.says("the log ends before the state", "ruche metadata replace 1")
	two.whole()
	two.ok("metadata", "replace", strconv.Itoa(c.Replica), "--wait")
	two.await("three copies", well(3))
	two.whole()
	two.stop()
}

// TestStaleCopyAlone has only the copy left that was away for a while: it does
// not start by itself, and force says that it is old.
func TestStaleCopyAlone(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	s.stop()
	s.move(s.meta("d1"), s.meta("d1")+".away")
	s.start()
	s.fill("later", 40)
	s.stop()
	s.move(s.meta("d1")+".away", s.meta("d1"))
	for _, drive := range []string{"d2", "d3"} {
		s.move(s.meta(drive), s.meta(drive)+".away")
	}
	s.refused("copy 2 in", "copy 3 in", "1 of 3 copies", "ruche metadata force")
	for _, drive := range []string{"d2", "d3"} {
		s.move(s.meta(drive)+".away", s.meta(drive))
	}
	s.start()
	s.await("three copies", well(3))
	s.whole()
	s.stop()
}
