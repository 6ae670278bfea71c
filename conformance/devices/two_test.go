package devices

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTwoOfFive has two of five devices with copies fail in different ways
// while clients write, and replaces their copies while they go on.
func TestTwoOfFive(t *testing.T) {
	t.Parallel()
	const first, second = 1, 3 // drives
	cut := func(d *Device) error { return d.Cut() }
	full := func(d *Device) error { return Fill(filepath.Join(d.Path, "of-somebody-else")) }
	failing := func(d *Device) error { return d.Fail() }
	for _, c := range []struct {
		name   string
		one    func(*Device) error
		two    func(*Device) error
		fails  int      // which of them has the I/O errors
		health []string // of the second copy
	}{
		{"I/O errors and full", failing, full, first, []string{"full", "failed", "slow"}},
		{"I/O errors and cut off", failing, cut, first, []string{"failed"}},
		{"cut off and I/O errors", cut, failing, second, []string{"failed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "5", c.fails)
			m.await("five copies", well(5))
			l := m.load(8)
			l.pass("all devices", 2*time.Second)
			t.Logf("d%d leads %d groups", first, m.lead(first))
			if err := c.one(m.devices[first-1]); err != nil {
				t.Fatal(err)
			}
			l.pass("the leader's device fails", 4*time.Second)
			m.health(first, "failed")
			if err := c.two(m.devices[second-1]); err != nil {
				t.Fatal(err)
			}
			l.pass("another fails", 5*time.Second)
			m.health(second, c.health...)
			m.await("three are left", func(c *copies) bool { return c.Healthy == 3 && c.Leaderless == 0 && c.MayLose == 0 })
			for n, drive := range []int{first, second} {
				m.command("metadata", "replace", fmt.Sprint(m.copyOn(drive).Replica), m.devices[5+n].Path, "--wait")
				l.pass("one copy replaced", time.Second)
			}
			m.await("five copies", well(5))
			l.end()
			if err := m.server.Stop(); err != nil {
				t.Error(err)
			}
			m.start()
			m.await("five copies after a start", well(5))
			l.verify()
			if err := m.server.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAllDevicesFull leaves no copy of the metadata room: writes are refused
// with an answer, reads go on, and so do writes once there is room.
func TestAllDevicesFull(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "3")
	m.await("three copies", well(3))
	l := m.load(0)
	l.pass("all devices", 2*time.Second)
	l.halt()
	for _, d := range m.devices[:3] {
		if err := Fill(filepath.Join(d.Path, "of-somebody-else")); err != nil {
			t.Fatal(err)
		}
	}
	l.refused("InsufficientCapacity")
	m.await("all are full", func(c *copies) bool {
		return !slices.ContainsFunc(c.Stores, func(s copyStatus) bool { return s.Health != "full" })
	})
	if text := string(m.command("status")); !strings.Contains(text, "has no room left on its device") || !strings.Contains(text, "ruche metadata replace") {
		t.Errorf("the status does not say what helps:\n%s", text)
	}
	l.verify()
	for _, d := range m.devices[:3] {
		if err := os.Remove(filepath.Join(d.Path, "of-somebody-else")); err != nil {
			t.Fatal(err)
		}
	}
	l.resume()
	l.pass("there is room again", 3*time.Second)
	m.await("three copies", well(3))
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}
