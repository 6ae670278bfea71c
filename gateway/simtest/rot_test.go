package simtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
)

var rotObjects = flag.Int("sim-objects", 0, "objects that rot; 0 means 400")

// rots are the ways in which files go bad at rest. Each damages one file, all
// over or in one place.
func rots() map[string]func(r *rotter, path string) error {
	return map[string]func(r *rotter, path string) error{
		"flipped": func(r *rotter, path string) error {
			return r.overAll(path, func(p []byte) { p[0] ^= 1 << r.rng.IntN(8) })
		},
		"zeroed": func(r *rotter, path string) error {
			return r.overAll(path, func(p []byte) { clear(p) })
		},
		"truncated by one": func(r *rotter, path string) error { return r.truncate(path) },
		"swapped":          func(r *rotter, path string) error { return r.swap(path) },
		"stale":            func(r *rotter, path string) error { return r.overwrite(path, r.stale) },
		"headers":          func(r *rotter, path string) error { return r.records(path, true) },
		"footers":          func(r *rotter, path string) error { return r.records(path, false) },
	}
}

// rotter damages the files of a machine that is off.
type rotter struct {
	fs    *vfs.MemFS
	stale *vfs.MemFS // as it was some time before
	rng   *rand.Rand
	last  string // file that was damaged before
}

// size returns the length of a file.
func (r *rotter) size(path string) (int64, error) {
	info, err := r.fs.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// overAll changes 64 bytes in every 600.
func (r *rotter) overAll(path string, f func(p []byte)) error {
	size, err := r.size(path)
	for off := r.rng.Int64N(300); err == nil && off < size; off += 600 {
		err = change(r.fs, path, off, f, int(min(64, size-off)))
	}
	return err
}

// records changes a byte in the header of every record, or the last one of its
// footer. Files without records, those of an index, have one of each.
func (r *rotter) records(path string, headers bool) error {
	b, err := bytesOf(r.fs, path)
	if err != nil || len(b) < 64 {
		return err
	}
	for off := 0; off <= len(b); off += 64 {
		at := off + 20
		switch begins := off == 0 || off < len(b) && bytes.HasPrefix(b[off:], []byte("RcRc")); {
		case off+64 < len(b) && !begins, headers && off+64 >= len(b), !headers && off == 0:
			continue
		case !headers && begins:
			at = len(bytes.TrimRight(b[:off], "\x00")) - 1
		case !headers:
			at = len(b) - 1
		}
		if at >= 0 {
			b[at] ^= 0x40
		}
	}
	return put(r.fs, path, b)
}

// bytesOf reads a file.
func bytesOf(fs vfs.FS, path string) ([]byte, error) {
	info, err := fs.Stat(path)
	if err != nil {
		return nil, err
	}
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	b := make([]byte, info.Size())
	if len(b) > 0 {
		_, err = f.ReadAt(b, 0)
	}
	return b, errors.Join(err, f.Close())
}

// put gives a file other bytes, durably.
func put(fs vfs.FS, path string, b []byte) error {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(slices.Clone(b))
	return errors.Join(err, f.Sync(), f.Close())
}

func (r *rotter) truncate(path string) error {
	b, err := bytesOf(r.fs, path)
	if err != nil || len(b) == 0 {
		return err
	}
	return put(r.fs, path, b[:len(b)-1])
}

// swap exchanges the contents of a file with those of the one before.
func (r *rotter) swap(path string) error {
	other := r.last
	r.last = path
	if other == "" || r.fs.PathDir(other) != r.fs.PathDir(path) {
		return nil
	}
	r.last = ""
	a, err := bytesOf(r.fs, path)
	if err != nil {
		return err
	}
	b, err := bytesOf(r.fs, other)
	return errors.Join(err, put(r.fs, path, b), put(r.fs, other, a))
}

// overwrite puts the bytes there that an earlier state of the drive had in its
// file of the same place in the order.
func (r *rotter) overwrite(path string, from *vfs.MemFS) error {
	old, err := files(from, driveOf(path)+"/seg")
	if err != nil || len(old) == 0 {
		return err
	}
	b, err := bytesOf(from, old[r.rng.IntN(len(old))])
	if err != nil {
		return err
	}
	return put(r.fs, path, b)
}

// drive damages all segments of a drive, or its index.
func (r *rotter) drive(path, part string, rot func(r *rotter, path string) error) error {
	all, err := files(r.fs, path+"/"+part)
	if err != nil {
		return err
	}
	r.last = ""
	for _, f := range all {
		if strings.HasSuffix(f, "LOCK") {
			continue
		}
		if err := rot(r, f); err != nil {
			return err
		}
	}
	return nil
}

// rotImage is a store full of objects, and as it was when half of them were
// there with other bytes.
func rotImage(t *testing.T, p plan, objects int) (fs, stale *vfs.MemFS, k *known) {
	t.Helper()
	image := newImage(t, p)
	synctest.Test(t, func(t *testing.T) {
		at := &site{plan: p, fs: image.CrashClone(vfs.CrashCloneCfg{}), seed: 301}
		s, err := at.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		k = newKnown(0)
		c := &client{s: s, k: k, rng: rand.New(rand.NewPCG(*simSeed, 31)), sizes: []int{1100, 2000, 5000, 9000, 1500, 3000, 20_000, 70_000, 140_000}}
		for i := range objects {
			k.keys = append(k.keys, fmt.Sprintf("key/%05d", i))
		}
		for i, key := range append(slices.Clone(k.keys[:objects/2]), k.keys...) {
			if i == objects/2 {
				stale = at.fs.CrashClone(vfs.CrashCloneCfg{})
			}
			if err := c.putSized(t.Context(), key, c.size()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		if err := s.settle(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		fs = at.fs.CrashClone(vfs.CrashCloneCfg{})
	})
	return fs, stale, k
}

// TestRot is T-ROT of the reliability plan: whatever goes bad in the segments of
// as many drives as may be lost, or in the indexes of all, every read is right,
// and a scrub finds and repairs all of it. With one drive more, reads fail and
// none is wrong.
func TestRot(t *testing.T) {
	t.Parallel()
	long(t)
	objects := cmp.Or(*rotObjects, 400)
	p := smallPlan(6)
	p.segment = 1 << 20 // a page of manifests must fit
	fs, stale, k := rotImage(t, p, objects)
	for name, rot := range rots() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := int(p.scheme.Parity)
			rng := rand.New(rand.NewPCG(*simSeed, uint64(len(name))))
			for _, lost := range []int{m, m + 1} {
				r := &rotter{fs: fs.CrashClone(vfs.CrashCloneCfg{}), stale: stale, rng: rng}
				for _, drive := range rng.Perm(p.drives)[:lost] {
					if err := r.drive(drivePath(drive), "seg", rot); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Test(t, func(t *testing.T) { rotten(t, p, r, k.clone(nil), lost <= m) })
			}
			rottenIndex(t, p, &rotter{fs: fs.CrashClone(vfs.CrashCloneCfg{}), stale: stale, rng: rng}, k.clone(nil), rot)
			t.Logf("seed %d: %d objects", *simSeed, objects)
		})
	}
}

// rottenIndex damages the indexes of all drives. They are made anew, in real
// time: what an index that cannot be opened has begun hangs until the process
// ends.
func rottenIndex(t *testing.T, p plan, r *rotter, k *known, rot func(*rotter, string) error) {
	t.Helper()
	for i := range p.drives {
		if err := r.drive(drivePath(i), "idx", rot); err != nil {
			t.Fatal(err)
		}
	}
	p.background = false
	at := &site{plan: p, fs: r.fs, seed: 303}
	s, err := at.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.away) > 0 {
		t.Errorf("drives are refused: %v", s.away)
	}
	if err := s.settle(t.Context(), k); err != nil {
		t.Errorf("with rotten indexes: %v", err)
	}
	a, err := s.audit(t.Context(), true)
	if err != nil || len(a.missing)+len(a.bad) > 0 {
		t.Errorf("with rotten indexes: %v, %v", a, err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

// rotten starts a store of which drives have rotted.
func rotten(t *testing.T, p plan, r *rotter, k *known, bearable bool) {
	t.Helper()
	at := &site{plan: p, fs: r.fs, seed: 302}
	s, err := at.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	if !bearable {
		failed, err := s.readRotten(t.Context(), k)
		t.Logf("%d of %d reads failed", failed, len(k.keys))
		if err != nil {
			t.Error(err)
		}
		return
	}
	if err := s.settle(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if err := s.quiesce(t.Context(), 2*time.Hour); err != nil {
		t.Error(err)
	}
	if err := s.settle(t.Context(), k); err != nil {
		t.Errorf("after the repair: %v", err)
	}
}

// readRotten reads all keys, which may fail, but not be wrong, and counts those
// that failed.
func (s *store) readRotten(ctx context.Context, k *known) (failed int, err error) {
	for _, key := range k.keys {
		since := k.Now()
		b, info, err := s.read(ctx, key)
		switch {
		case errors.Is(err, metadata.ErrNoSuchKey):
			return failed, fmt.Errorf("%s is not there, which nobody can say", key)
		case errors.Is(err, object.ErrUnreadable) || errors.Is(err, object.ErrDamaged):
			failed++
			continue
		case err != nil:
			return failed, fmt.Errorf("%s: not a clean error: %w", key, err)
		}
		if _, err := k.Match(key, since, b, info.ETag); err != nil {
			return failed, err
		}
	}
	return failed, nil
}
