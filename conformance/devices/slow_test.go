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

// TestDeviceThatIsSlow slows the device of the copy that leads most: the others
// go on without it, also where it leads.
func TestDeviceThatIsSlow(t *testing.T) {
	if err := CanSlow(); err != nil {
		t.Skip(err)
	}
	m := newMachine(t, "3")
	m.await("three copies", well(3))
	l := m.load(false) // drives have their own ways with a slow device
	leads := m.lead(1)
	l.pass(fmt.Sprintf("d1 leads %d groups", leads), 2*time.Second)
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
	m.await("the store serves", func(c *copies) bool { return c.Leaderless == 0 && c.Voters == 3 })
	t.Logf("T-SLOW: the device that led %d of 17 groups, then %d, slowed to %d writes a second, 3 copies: PUT p99 %v before, %v after 10 s (p50 %v and %v), longest time without an acknowledged PUT %v",
		leads, m.copyOn(1).Leads, slowWrites, before.p99.Round(100*time.Microsecond), after.p99.Round(100*time.Microsecond), before.p50.Round(100*time.Microsecond), after.p50.Round(100*time.Microsecond), after.gap.Round(time.Millisecond))
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

// TestLeaderIsCutOff cuts the device off whose copy leads most, twice, and tells
// how long clients waited.
func TestLeaderIsCutOff(t *testing.T) {
	m := newMachine(t, "3")
	m.await("three copies", well(3))
	l := m.load(false)
	var longest time.Duration
	for leader := 1; leader <= 2; leader++ { // a third drive less would end writes of large bodies
		leads := m.lead(leader)
		l.pass(fmt.Sprintf("d%d leads %d groups", leader, leads), 2*time.Second)
		if err := m.devices[leader-1].Cut(); err != nil {
			t.Fatal(err)
		}
		p := l.pass(fmt.Sprintf("d%d cut off", leader), 6*time.Second)
		longest = max(longest, p.longest)
		m.command("metadata", "replace", fmt.Sprint(m.copyOn(leader).Replica), m.devices[leader+2].Path, "--wait")
		m.await("three copies", well(3))
	}
	t.Logf("the device of the leader cut off twice, 3 copies: a call took %v at most", longest.Round(time.Millisecond))
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}
