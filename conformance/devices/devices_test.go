package devices

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestDevicesThatAreCutOff loses two of five devices with copies under load,
// one after the other, replaces one with an empty device, and mounts the other
// again.
func TestDevicesThatAreCutOff(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "5")
	m.await("five copies", well(5))
	l := m.load(8)
	l.pass("all devices", 3*time.Second)
	for n, drive := range []int{2, 4} {
		if err := m.devices[drive-1].Cut(); err != nil {
			t.Fatal(err)
		}
		l.pass(fmt.Sprintf("d%d cut off", drive), 5*time.Second)
		m.health(drive, "failed")
		m.await("the others serve", func(c *copies) bool { return c.MayLose == 1-n && c.Leaderless == 0 })
	}
	d2 := m.devices[1]
	if err := d2.Unmount(); err != nil {
		t.Fatal(err)
	}
	if err := d2.Renew(deviceBytes); err != nil {
		t.Fatal(err)
	}
	m.command("drive", "replace", d2.Path)
	l.pass("d2 replaced", 3*time.Second)
	m.await("four copies of five", func(c *copies) bool { return c.Voters == 5 && c.Healthy == 4 && c.Changing == "" })
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
	d4 := m.devices[3]
	if err := d4.Unmount(); err != nil {
		t.Fatal(err)
	}
	if err := d4.Mount(); err != nil {
		t.Fatal(err)
	}
	m.start()
	m.await("the copy on d4 is back", well(5))
	l.verify()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}

// TestDeviceThatHangs has all writes to a device with a copy wait: the others
// do not wait for it. Then it goes on as if nothing had been.
func TestDeviceThatHangs(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "auto") // five: state directory and drives are on nine devices
	m.await("five copies", well(5))
	l := m.load(0) // drives have their own ways with a device that hangs
	l.pass("all devices", 3*time.Second)
	d := m.devices[0]
	if err := d.Freeze(); err != nil {
		t.Fatal(err)
	}
	l.pass("d1 begins to hang", 10*time.Second)
	l.pass("d1 hangs", 10*time.Second)
	if err := d.Thaw(); err != nil {
		t.Fatal(err)
	}
	l.pass("d1 goes on", 3*time.Second)
	m.await("five copies", well(5))
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}

// TestDeviceThatIsFull fills a device with a copy: the others take writes, and
// so does it once there is room again.
func TestDeviceThatIsFull(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "auto") // five: state directory and drives are on nine devices
	m.await("five copies", well(5))
	l := m.load(8)
	l.pass("all devices", 3*time.Second)
	name := filepath.Join(m.devices[2].Path, "of-somebody-else")
	if err := Fill(name); err != nil {
		t.Fatal(err)
	}
	l.pass("d3 full", 8*time.Second)
	m.await("others serve", func(c *copies) bool { return c.Leaderless == 0 && c.Healthy >= 4 })
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	l.pass("d3 has room", 3*time.Second)
	l.end()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
	m.start()
	m.await("five copies", well(5))
	l.verify()
	if err := m.server.Stop(); err != nil {
		t.Error(err)
	}
}
