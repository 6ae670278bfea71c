// Package devices runs the server on real file systems of their own, one a
// drive, and has these fail under S3 clients: cut off, answer writes with I/O
// errors, hang, become slow, or fill up. It looks at what the copies of the
// metadata on them make of it: clients must not notice, but for calls that are
// tried again.
//
// The devices are files in memory on loop devices, with ext4 or xfs. Those that
// are to answer with I/O errors lie in a tmpfs of their own, which is filled.
// Slow devices need the blkio controller of cgroup version 1; where it is
// missing, those tests alone are skipped. Only root may make them, on a machine
// that lets it: elsewhere the tests are skipped, also if RUCHE_REQUIRE is 1, and
// "make conformance" says so. They are skipped with -short, too.
//
//	RUCHE_BIN      the ruche program; without it the tests are skipped
//	RUCHE_REQUIRE  1 has them fail instead, and where mkfs.ext4 or mount is
//	               missing or fails
//	RUCHE_LIN_OPS  how many calls are checked for one order while devices fail,
//	               30,000 if not set
//	RUCHE_CUTS     how often the power of all devices fails, 34 if not set
//	RUCHE_SEED     seed of both
package devices

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Possible returns why nobody can mount devices here, nil if they can.
func Possible() error {
	if os.Geteuid() != 0 {
		return errors.New("only root can mount the devices")
	}
	caps := [2]unix.CapUserData{} // version 3 fills two
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	if caps[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return errors.New("root may not mount devices here, as in a container: CAP_SYS_ADMIN is missing")
	}
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("no loop devices here: %w", err)
	}
	return f.Close()
}

// A Device is a file system of its own in a file.
type Device struct {
	Path  string // where it is mounted
	image string
	kind  string // of file system
	below string // tmpfs of the image, empty if it lies elsewhere
}

// Make makes a file system, ext4 or xfs, of a size in bytes in a new file below
// home, and mounts it.
func Make(home, name, kind string, size int64) (*Device, error) {
	d := &Device{Path: filepath.Join(home, name), image: filepath.Join(home, name+".img"), kind: kind}
	if err := os.MkdirAll(d.Path, 0o700); err != nil {
		return nil, err
	}
	return d, d.Renew(size)
}

// MakeFailing makes a device as Make does that [Device.Fail] can have fail. It
// has room for no more than room bytes, whatever its size.
func MakeFailing(home, name string, size, room int64) (*Device, error) {
	below := filepath.Join(home, name+".below")
	d := &Device{Path: filepath.Join(home, name), image: filepath.Join(below, "img"), kind: "ext4", below: below}
	if err := errors.Join(os.MkdirAll(d.Path, 0o700), os.MkdirAll(below, 0o700)); err != nil {
		return nil, err
	}
	if err := run("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", room), "tmpfs", below); err != nil {
		return nil, err
	}
	return d, d.Renew(size)
}

// Fail has writes end with I/O errors from now on, but for those to blocks that
// were written before. The device must be of MakeFailing.
func (d *Device) Fail() error { return Fill(filepath.Join(d.below, "fill")) }

// Fill writes a file until there is no room for another byte.
func Fill(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	block := bytes.Repeat([]byte("full"), 256<<10)
	for len(block) > 1 {
		for err = nil; err == nil; {
			_, err = f.Write(block)
		}
		block = block[:len(block)/2]
	}
	return f.Close()
}

// Renew makes the file system anew, as a device that replaces another, and
// mounts it. The old one must not be mounted.
func (d *Device) Renew(size int64) error {
	if err := os.Remove(d.image); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(d.image, size); err != nil {
		return err
	}
	force := map[string]string{"ext4": "-F", "xfs": "-f"}[d.kind]
	if err := run("mkfs."+d.kind, "-q", force, d.image); err != nil {
		return err
	}
	return d.Mount()
}

// Mount mounts the file system.
func (d *Device) Mount() error { return run("mount", "-o", "loop", d.image, d.Path) }

// Unmount takes the file system away, also from under processes that have files
// open there.
func (d *Device) Unmount() error { return run("umount", "-l", d.Path) }

// Remove takes away all that was mounted for the device.
func (d *Device) Remove() error {
	err := d.Unmount()
	if d.below != "" {
		err = errors.Join(err, run("umount", "-l", d.below))
	}
	return err
}

// Where the writes and reads a second of a device are limited, for all processes
// and for the kernel.
const (
	throttleWrites = "/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device"
	throttleReads  = "/sys/fs/cgroup/blkio/blkio.throttle.read_iops_device"
)

// CanSlow returns why devices cannot be slowed here, nil if they can.
func CanSlow() error {
	f, err := os.OpenFile(throttleWrites, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("no way to slow a device: %w", err)
	}
	return f.Close()
}

// Slow lets the device carry out so many writes a second at most, until it is
// called with 0.
func (d *Device) Slow(writes int) error { return d.limit(throttleWrites, writes) }

// SlowReads lets the device carry out so many reads a second at most, until it
// is called with 0. What the kernel has in memory of files on it is dropped, so
// that it must be read.
func (d *Device) SlowReads(reads int) error {
	if err := d.limit(throttleReads, reads); err != nil || reads == 0 {
		return err
	}
	return filepath.WalkDir(d.Path, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil // gone meanwhile
		}
		f, err := os.Open(name)
		if err != nil {
			return nil // the same
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

func (d *Device) limit(throttle string, operations int) error {
	var stat unix.Stat_t
	if err := unix.Stat(d.Path, &stat); err != nil {
		return fmt.Errorf("stat %s: %w", d.Path, err)
	}
	rule := fmt.Sprintf("%d:%d %d", unix.Major(stat.Dev), unix.Minor(stat.Dev), operations)
	return os.WriteFile(throttle, []byte(rule), 0o644)
}

// shutdown is EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN, _IOR('X', 125, __u32),
// and noLogFlush its argument: nothing that is not on the device gets there any
// more.
const (
	shutdown   = 0x8004587d
	noLogFlush = 2
)

// Cut has everything on the file system fail from now on, as when the device is
// pulled: what was synced is there when it is mounted again.
func (d *Device) Cut() error {
	flags := uint32(noLogFlush)
	return d.control(shutdown, uintptr(unsafe.Pointer(&flags)))
}

// Freeze has every write wait until Thaw, as on a device that hangs.
func (d *Device) Freeze() error { return d.control(fiFreeze, 0) }

// Thaw ends Freeze.
func (d *Device) Thaw() error { return d.control(fiThaw, 0) }

// FIFREEZE and FITHAW, _IOWR('X', 119 and 120, int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

func (d *Device) control(request, argument uintptr) error {
	f, err := os.Open(d.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, argument); errno != 0 {
		return fmt.Errorf("ioctl %#x of %s: %w", request, d.Path, errno)
	}
	return nil
}

// run runs a program that must succeed.
func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
