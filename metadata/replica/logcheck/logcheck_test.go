package logcheck

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func options(fs vfs.FS) *pebble.Options {
	return &pebble.Options{FS: fs, Logger: quiet{}, FormatMajorVersion: 20}
}
func crash(fs *vfs.MemFS, c vfs.CrashCloneCfg) *vfs.MemFS { return fs.CrashClone(c) }

// store writes a store with several manifest records, and a log of synced
// writes of which the last one is long, and returns its file system as it was
// before it was closed.
func store(t *testing.T) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	db, err := pebble.Open("store", options(fs))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 120 {
		value := make([]byte, 100+r.IntN(1500))
		for j := range value {
			value[j] = byte(r.Uint32())
		}
		if err := db.Set(fmt.Appendf(nil, "%04d", i), value, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		if i%20 == 10 && i < 80 {
			if err := db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	clone := crash(fs, vfs.CrashCloneCfg{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return clone
}

func contents(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open("store/" + name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create("store/"+name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// last returns the newest file whose name begins or ends so.
func last(t *testing.T, fs vfs.FS, fits func(string) bool) string {
	t.Helper()
	names, err := fs.List("store")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	found := ""
	for _, n := range names {
		if fits(n) {
			found = n
		}
	}
	return found
}

func isLog(n string) bool      { return strings.HasSuffix(n, ".log") }
func isManifest(n string) bool { return strings.HasPrefix(n, "MANIFEST-") }

// starts returns where the chunks of a file begin, and its end.
func starts(t *testing.T, c *checker) []int {
	t.Helper()
	var at []int
	end, _ := c.end()
	for p := 0; p < end; {
		if size, _, ok := c.chunk(p); ok {
			at = append(at, p)
			p += size
		} else {
			p++
		}
	}
	if len(at) < 5 {
		t.Fatalf("only %d chunks", len(at))
	}
	return append(at, end)
}

func TestDamageInTheMiddleIsRot(t *testing.T) {
	t.Parallel()
	fs := store(t)
	if err := Dir(fs, "store"); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(2, 2))
	for _, fits := range []func(string) bool{isLog, isManifest} {
		name := last(t, fs, fits)
		whole := contents(t, fs, name)
		c := &checker{data: whole, log: isLog(name)}
		if c.log {
			fmt.Sscanf(name, "%d.log", &c.number)
		}
		at := starts(t, c)
		unproven := at[len(at)-2] // the last chunk
		if c.log {
			unproven = at[len(at)-4] // two writes, one of them over the end of a block
		}
		for range 300 {
			p := r.IntN(unproven)
			bad := bytes.Clone(whole)
			switch r.IntN(3) {
			case 0:
				bad[p] ^= 1 << r.IntN(8)
			case 1:
				clear(bad[p:min(p+512, unproven)])
			case 2:
				for i := range bad[p:min(p+4096, unproven)] {
					bad[p+i] = byte(r.Uint32())
				}
			}
			if bytes.Equal(bad, whole) {
				continue
			}
			write(t, fs, name, bad)
			if err := Dir(fs, "store"); !errors.Is(err, ErrRot) && !padding(at, whole, bad) {
				t.Errorf("%s, %d bytes, damaged at %d: %v", name, len(whole), p, err)
			}
		}
		write(t, fs, name, whole)
	}
}

// padding reports whether only the zeros at the end of a block differ, which
// are no part of any chunk.
func padding(at []int, whole, bad []byte) bool {
	for i := range whole {
		if whole[i] != bad[i] && blockBytes-i%blockBytes > syncHead {
			return false
		}
	}
	return len(at) > 0
}

func TestTornEndsAreNoRot(t *testing.T) {
	t.Parallel()
	fs := store(t)
	r := rand.New(rand.NewPCG(3, 3))
	for _, fits := range []func(string) bool{isLog, isManifest} {
		name := last(t, fs, fits)
		whole := contents(t, fs, name)
		for range 200 {
			n := r.IntN(len(whole))
			torn := bytes.Clone(whole[:n])
			if r.IntN(2) == 0 {
				torn = append(torn, make([]byte, r.IntN(1000))...) // what was made room for
			}
			write(t, fs, name, torn)
			if err := Dir(fs, "store"); err != nil {
				t.Errorf("%s cut off at %d of %d: %v", name, n, len(whole), err)
			}
		}
		write(t, fs, name, whole)
	}
}

// TestCrashesAreNoRot cuts the power at random, with any part of what was not
// synced kept, out of order too.
func TestCrashesAreNoRot(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(4, 4))
	for range 20 {
		fs := vfs.NewCrashableMem()
		for range 4 {
			o := options(fs)
			o.MemTableSize = 32 << 10
			db, err := pebble.Open("store", o)
			if err != nil {
				t.Fatal(err)
			}
			for i := range r.IntN(200) {
				sync := pebble.NoSync
				if r.IntN(8) == 0 {
					sync = pebble.Sync
				}
				if err := db.Set(fmt.Appendf(nil, "%d", i), make([]byte, r.IntN(3000)), sync); err != nil {
					t.Fatal(err)
				}
			}
			clone := crash(fs, vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r})
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			fs = clone
			if err := Dir(fs, "store"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestNoStoreIsAnError(t *testing.T) {
	t.Parallel()
	if err := Dir(vfs.NewMem(), "store"); err == nil || errors.Is(err, ErrRot) {
		t.Errorf("Dir of nothing: %v", err)
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 1}, false)
	f.Add(make([]byte, syncHead), true)
	f.Fuzz(func(t *testing.T, b []byte, log bool) {
		c := checker{data: b, log: log, number: 7}
		if at, proof, found := c.rot(); found && (at < 0 || proof < at || proof+c.head() > len(b)) {
			t.Errorf("rot at %d, proof at %d of %d bytes", at, proof, len(b))
		}
	})
}
