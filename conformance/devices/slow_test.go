package devices

import (
	"fmt"
	"testing"
	"time"
)

const (
	slowWrites = 10 // a second; a healthy device here does some thousand
	// slowFactor is how much longer a slow device may make the slowest of a
	// hundred writes once it is known to be slow. The promise is 2; the bound here
	// is what a machine that others use, too, keeps to.
	slowFactor = 8
	slowLeast  = 50 * time.Millisecond // no times shorter than that are compared
)

// TestDeviceThatIsSlow slows the device of the copy that leads everything: the
// others take the lead, and are not slowed by it.
func TestDeviceThatIsSlow(t *testing.T) {
	if err := CanSlow(); err != nil {
		t.Skip(err)
	}
	m := newMachine(t, "3")
	m.await("three copies", well(3))
	l := m.load(false) // drives have their own ways with a slow device
	m.command("metadata", "transfer", "1")
	l.pass("d1 leads", 2*time.Second)
	before := l.pass("all devices", 8*time.Second)
	slow := m.devices[0]
	if err := slow.Slow(slowWrites); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := slow.Slow(0); err != nil {
			t.Error(err)
		}
	})
	l.pass("d1 becomes slow", 10*time.Second)
	after := l.pass("d1 is slow", 10*time.Second)
	m.await("the others serve", func(c *copies) bool { return c.Leaderless == 0 && c.Voters == 3 })
	t.Logf("T-SLOW: the device that led everything slowed to %d writes a second, 3 copies: PUT p99 %v before, %v after 10 s (p50 %v and %v), longest time without an acknowledged PUT %v",
		slowWrites, before.p99.Round(100*time.Microsecond), after.p99.Round(100*time.Microsecond), before.p50.Round(100*time.Microsecond), after.p50.Round(100*time.Microsecond), after.gap.Round(time.Millisecond))
	if after.p99 > slowFactor*max(before.p99, slowLeast) {
		t.Errorf("PUT p99 %v with a slow device, %v before", after.p99, before.p99)
	}
	if err := slow.Slow(0); err != nil {
		t.Fatal(err)
	}
	l.pass("d1 is as before", 2*time.Second)
	m.await("three copies", well(3))
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}

// TestLeaderIsCutOff cuts the device off whose copy leads everything, again and
// again, and tells how long clients waited.
func TestLeaderIsCutOff(t *testing.T) {
	m := newMachine(t, "3")
	m.await("three copies", well(3))
	l := m.load(false)
	leader, next := 1, 4 // of drives: it leads, it gets the next copy
	var longest time.Duration
	for range 4 {
		m.command("metadata", "transfer", fmt.Sprint(m.copyOn(leader).Replica))
		l.pass(fmt.Sprintf("d%d leads", leader), 2*time.Second)
		if err := m.devices[leader-1].Cut(); err != nil {
			t.Fatal(err)
		}
		p := l.pass(fmt.Sprintf("d%d cut off", leader), 6*time.Second)
		longest = max(longest, p.gap)
		m.command("metadata", "replace", fmt.Sprint(m.copyOn(leader).Replica), m.devices[next-1].Path, "--wait")
		m.await("three copies", well(3))
		leader, next = leader+1, next+1
		if leader == 3 {
			break // two drives are gone: a third would end writes of large bodies
		}
	}
	t.Logf("the device of the leader cut off %d times, 3 copies: longest time without an acknowledged PUT %v", leader-1, longest.Round(time.Millisecond))
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}
