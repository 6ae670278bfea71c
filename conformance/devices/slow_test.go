package devices

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

const (
	slowWrites = 10 // a second; a healthy device here does some thousand
	// The promise is that a slow device makes the slowest of a hundred calls take
	// at most twice as long once it is known to be slow, which the tests with a
	// clock of their own hold it to. The bound here is what a machine keeps to
	// that others use, too; without the promise calls would take seconds.
	slowFactor = 4
	slowLeast  = 50 * time.Millisecond // no times shorter than that are compared
)

// judge compares the slowest of a hundred calls while a device was slow with
// those before and afterwards.
func judge(t *testing.T, what string, before, slow, afterwards time.Duration) {
	t.Helper()
	if slow > slowFactor*max(before, afterwards, slowLeast) {
		t.Errorf("%s p99 %v with a slow device, %v before and %v afterwards", what, slow, before, afterwards)
	}
}

// TestDeviceThatIsSlow slows the device of the copy that leads most: the others
// go on without it, also where it leads.
func TestDeviceThatIsSlow(t *testing.T) {
	if err := CanSlow(); err != nil {
		t.Skip(err)
	}
	m := newMachine(t, "3")
	m.await("three copies", well(3))
	l := m.load(0) // drives have their own ways with a slow device
	leads := m.lead(1)
	l.pass(fmt.Sprintf("d1 leads %d groups", leads), 2*time.Second)
	before := l.pass("all devices", 5*time.Second)
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
	during := l.pass("d1 is slow", 5*time.Second)
	m.await("the store serves", func(c *copies) bool { return c.Leaderless == 0 && c.Voters == 3 })
	leadsNow := m.copyOn(1).Leads
	if err := slow.Slow(0); err != nil {
		t.Fatal(err)
	}
	after := l.pass("d1 is as before", 5*time.Second)
	m.await("three copies", well(3))
	t.Logf("T-SLOW: the device of the copy that led %d of 17 groups, then %d, slowed to %d writes a second, 3 copies: PUT p99 %v before, %v after 10 s, %v once it was well again (p50 %v, %v, %v), longest time without an acknowledged PUT %v",
		leads, leadsNow, slowWrites, before.p99.Round(100*time.Microsecond), during.p99.Round(100*time.Microsecond), after.p99.Round(100*time.Microsecond),
		before.p50.Round(100*time.Microsecond), during.p50.Round(100*time.Microsecond), after.p50.Round(100*time.Microsecond), during.gap.Round(time.Millisecond))
	judge(t, "PUT", before.p99, during.p99, after.p99)
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}

// TestDriveThatIsSlow has the device of a drive hang, or become slow to write and
// to read, under bodies that lie on drives: ten seconds later nobody notices, and
// no call fails.
func TestDriveThatIsSlow(t *testing.T) {
	for _, c := range []struct {
		name         string
		able         func() error
		slow, better func(*Device) error
	}{
		{"hangs", func() error { return nil }, (*Device).Freeze, (*Device).Thaw},
		{"10 writes and 10 reads a second", CanSlow, func(d *Device) error { return errors.Join(d.Slow(slowWrites), d.SlowReads(slowWrites)) },
			func(d *Device) error { return errors.Join(d.Slow(0), d.SlowReads(0)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.able(); err != nil {
				t.Skip(err)
			}
			m := newMachine(t, "1")
			l := m.load(1)
			l.pass("all devices", 2*time.Second)
			before := l.pass("all devices", 5*time.Second)
			if err := c.slow(m.devices[0]); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.better(m.devices[0]) }) // it mostly is already
			first := l.pass("the first 10 s", 10*time.Second)
			during := l.pass("d1 "+c.name, 5*time.Second)
			if err := c.better(m.devices[0]); err != nil {
				t.Fatal(err)
			}
			after := l.pass("d1 is as before", 5*time.Second)
			t.Logf("T-SLOW: the device of one of %d drives, 5+3: %s: PUT p99 %v before, %v in the first 10 s, %v after them, %v once it was well again; GET p99 %v, %v, %v, %v; 0 errors",
				drives, c.name, before.p99.Round(100*time.Microsecond), first.p99.Round(100*time.Microsecond), during.p99.Round(100*time.Microsecond), after.p99.Round(100*time.Microsecond),
				before.get99.Round(100*time.Microsecond), first.get99.Round(100*time.Microsecond), during.get99.Round(100*time.Microsecond), after.get99.Round(100*time.Microsecond))
			judge(t, "PUT", before.p99, during.p99, after.p99)
			judge(t, "GET", before.get99, during.get99, after.get99)
			for _, p := range []passed{before, first, during, after} {
				if p.again > 0 {
					t.Errorf("%d calls had to be tried again, one because of %v", p.again, p.why)
				}
			}
			l.end()
			if err := m.server.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLeaderIsCutOff cuts the device off whose copy leads most, twice, and tells
// how long clients waited.
func TestLeaderIsCutOff(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "3")
	m.await("three copies", well(3))
	l := m.load(0)
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
