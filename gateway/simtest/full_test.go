package simtest

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
)

// filler makes devices full, and empties them.
type filler struct {
	what func(path string) bool // lies on a device that fills up
	full atomic.Bool
}

// before fails what would take more space.
func (f *filler) before(s *step) error {
	takes := s.verb == "write" || s.verb == "preallocate" || s.verb == "create"
	if takes && f.full.Load() && f.what(s.path) && driveOf(s.path) != "" {
		return syscall.ENOSPC
	}
	return nil
}

func (f *filler) usage(path string) vfs.DiskUsage {
	u := vfs.DiskUsage{TotalBytes: 1 << 40, AvailBytes: 1 << 39}
	if f.full.Load() && f.what(path) {
		u.AvailBytes = 0
	}
	u.UsedBytes = u.TotalBytes - u.AvailBytes
	return u
}

// TestFull is T-FULL of the reliability plan in simulated time: one drive, all
// drives or the device of the metadata are full. What cannot be written is told
// within a second, reads and deletes go on, and writes resume within half a
// minute once there is room. Devices that are really full are in package
// conformance/devices.
func TestFull(t *testing.T) {
	t.Parallel()
	long(t)
	p := smallPlan(6)
	p.reserve = 1 << 20
	image := newImage(t, p)
	for name, c := range map[string]struct {
		what    func(path string) bool
		refused []error // of a body that is stored on drives; nil: it is taken
	}{
		"one drive":  {func(path string) bool { return driveOf(path+"/") == drivePath(2) }, nil},
		"all drives": {func(path string) bool { return driveOf(path+"/") != "" }, []error{object.ErrFull}},
		"metadata":   {func(path string) bool { return strings.HasPrefix(path, "state") }, []error{metadata.ErrMetadataFull}},
	} {
		for n := range uint64(3) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					f := &filler{what: c.what}
					at := &site{plan: p, fs: image.CrashClone(vfs.CrashCloneCfg{}), seed: *simSeed<<8 + n, hooks: &disk{before: f.before, usage: f.usage}}
					fillUp(t, at, f, c.refused)
				})
			})
		}
	}
}

func fillUp(t *testing.T, at *site, f *filler, refused []error) {
	t.Helper()
	s, err := at.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k := newKnown(12)
	c := &client{s: s, k: k, rng: rand.New(rand.NewPCG(at.seed, 91)), sizes: simSizes}
	work := func(when string, steps int) {
		if err := c.work(t.Context(), steps, func() bool { return false }, time.Second); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	for _, key := range k.keys {
		if err := c.putSized(t.Context(), key, c.size()); err != nil {
			t.Fatal(err)
		}
	}
	work("before", 40)
	f.full.Store(true)
	time.Sleep(10 * time.Second)
	if refused == nil {
		work("with a full drive", 80)
	} else {
		refuse(t, c, refused)
	}
	if err := s.settle(t.Context(), k); err != nil {
		t.Errorf("full: %v", err)
	}
	f.full.Store(false)
	time.Sleep(30 * time.Second)
	work("with room again", 60)
	if err := errors.Join(s.settle(t.Context(), k), s.quiesce(t.Context(), time.Hour)); err != nil {
		t.Error(err)
	}
	var left *vfs.MemFS
	after := k.clone(func() { left = at.fs.CrashClone(vfs.CrashCloneCfg{}) })
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if s, err = (&site{plan: at.plan, fs: left, seed: at.seed + 1000}).open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.settle(t.Context(), after), s.close()); err != nil {
		t.Errorf("after a power cut: %v", err)
	}
}

// refuse writes what cannot be taken, reads and deletes.
func refuse(t *testing.T, c *client, refused []error) {
	t.Helper()
	for i, key := range c.k.keys {
		v := c.k.value(5000 + i)
		w := c.k.Begin(key, v)
		began := time.Now()
		_, err := c.s.Put(t.Context(), &object.PutRequest{Bucket: bucketName, Key: key, Body: body(v.Bytes)})
		known := false
		for _, want := range refused {
			known = known || errors.Is(err, want)
		}
		if !known {
			t.Errorf("%s was answered: %v", key, err)
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("%s was answered after %v", key, d)
		}
		if err == nil {
			w.Done(v)
		} else {
			w.Failed()
		}
		if err := c.read(t.Context(), key); err != nil {
			t.Error(err)
		}
		if i%3 == 0 {
			if err := c.removeKey(t.Context(), key); err != nil {
				t.Errorf("delete %s: %v", key, err)
			}
		}
	}
}
