package simtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestRotSuperblocks lets superblocks rot: each drive has two, so that one may go
// bad on all drives at once. Of a drive without any nothing is taken, nor is it
// made a new one; the others serve what it held.
func TestRotSuperblocks(t *testing.T) {
	t.Parallel()
	long(t)
	p := smallPlan(6)
	p.segment = 1 << 20
	fs, stale, k := rotImage(t, p, 40)
	for name, rot := range rots() {
		for _, both := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, both=%v", name, both), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := &rotter{fs: fs.CrashClone(vfs.CrashCloneCfg{}), stale: stale, rng: rand.New(rand.NewPCG(*simSeed, uint64(len(name))))}
					rotSuperblocks(t, p, r, rot, k.clone(nil), both)
				})
			})
		}
	}
}

func rotSuperblocks(t *testing.T, p plan, r *rotter, rot func(*rotter, string) error, k *known, both bool) {
	t.Helper()
	drives := p.drives // of which one superblock rots
	if both {
		drives = int(p.scheme.Parity)
	}
	for i := range drives {
		for n := range 2 {
			if n == 0 && !both {
				continue
			}
			if err := rot(r, fmt.Sprintf("%s/superblock.%d", drivePath(i), n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := (&site{plan: p, fs: r.fs, seed: 305}).open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !both && len(s.away) > 0 || len(s.away) > drives {
		t.Errorf("%d drives are refused: %v", len(s.away), s.away)
	}
	t.Logf("%d drives are refused", len(s.away))
	if err := errors.Join(s.settle(t.Context(), k), s.close()); err != nil {
		t.Error(err)
	}
}

// TestRotMetadata lets one file of the only copy of the metadata rot at a time:
// the start refuses it and says why, or everything is right. What is right and
// what is refused is looked at in real time, since what a database has begun
// that cannot be opened hangs until the process ends.
func TestRotMetadata(t *testing.T) {
	t.Parallel()
	long(t)
	p := smallPlan(3)
	p.segment = 1 << 20
	fs, _, k := rotImage(t, p, 40)
	all, err := files(fs, "state/metadata")
	if err != nil {
		t.Fatal(err)
	}
	p.background = false
	for _, name := range []string{"flipped", "zeroed", "truncated by one"} {
		rot := rots()[name]
		refused, right := 0, 0
		for i, path := range all {
			if strings.HasSuffix(path, "LOCK") || strings.Contains(path, "ballast") {
				continue
			}
			r := &rotter{fs: fs.CrashClone(vfs.CrashCloneCfg{}), rng: rand.New(rand.NewPCG(*simSeed, uint64(i)))}
			if err := rot(r, path); err != nil {
				t.Fatal(err)
			}
			ok, err := rotMetadata(t, p, r.fs, k.clone(nil))
			if err != nil {
				t.Errorf("%s, %s: %v", path, name, err)
			}
			if ok {
				right++
			} else {
				refused++
			}
		}
		t.Logf("%s: of %d files %d were refused, %d made no difference", name, len(all), refused, right)
	}
}

// rotMetadata reports whether a store of which the metadata have rotted is as
// right as before.
func rotMetadata(t *testing.T, p plan, fs *vfs.MemFS, k *known) (right bool, err error) {
	t.Helper()
	s, err := (&site{plan: p, fs: fs, seed: 306}).open(t.Context())
	if err != nil {
		return false, nil // it is refused, whatever the cause
	}
	for _, key := range slices.Clone(k.keys) {
		since := k.Now()
		b, info, err := s.read(t.Context(), key)
		if err != nil && strings.Contains(err.Error(), "corrupt") {
			return false, errors.Join(ignoreFence(s.close()))
		}
		if err != nil {
			return false, errors.Join(fmt.Errorf("%s: %w", key, err), ignoreFence(s.close()))
		}
		if _, err := k.Match(key, since, b, info.ETag); err != nil {
			return false, errors.Join(err, ignoreFence(s.close()))
		}
	}
	return true, ignoreFence(s.close())
}

// ignoreFence drops the error of an end that repeats what was told before.
func ignoreFence(err error) error {
	if err != nil && (strings.Contains(err.Error(), "corrupt") || strings.Contains(err.Error(), "unavailable")) {
		return nil
	}
	return err
}
