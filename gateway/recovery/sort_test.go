package recovery

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
)

// sorted returns all that a sorter holds as text.
func sorted(t *testing.T, s *sorter) (out []string) {
	t.Helper()
	err := s.each(func(key, value []byte) error {
		out = append(out, fmt.Sprintf("%s=%s", key, value))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestSorter compares with a map, in memory, over a few files, and over more
// than are merged at a time.
func TestSorter(t *testing.T) {
	t.Parallel()
	for _, memory := range []int{1 << 20, 2000, 20} {
		fs := vfs.NewMem()
		s, err := newSorter(fs, "scratch", memory)
		if err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(1, uint64(memory)))
		want := make(map[string]string)
		var group sync.WaitGroup
		for part := range 4 {
			items := make([]string, 300)
			for i := range items {
				items[i] = fmt.Sprintf("%d", random.IntN(800))
				want[items[i]] = items[i] + "=" + items[i]
			}
			group.Go(func() {
				for _, i := range items {
					if err := s.add([]byte(i), []byte(i)); err != nil {
						t.Errorf("add from %d: %v", part, err)
					}
				}
			})
		}
		group.Wait()
		keys := slices.Sorted(maps.Keys(want))
		for i, k := range keys {
			keys[i] = want[k]
		}
		for range 2 { // it may be read twice
			if got := sorted(t, s); !slices.Equal(got, keys) {
				t.Errorf("memory %d: %d items, want %d: %v", memory, len(got), len(keys), got)
			}
		}
		if memory == 20 && (len(s.runs) >= maxRuns || s.made <= maxRuns) {
			t.Errorf("%d files of %d", len(s.runs), s.made)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if list, err := fs.List(""); err != nil || len(list) != 0 {
			t.Errorf("left: %v, %v", list, err)
		}
	}
}

func TestSorterEmpty(t *testing.T) {
	t.Parallel()
	s, err := newSorter(vfs.NewMem(), "scratch", 100)
	if err != nil {
		t.Fatal(err)
	}
	if got := sorted(t, s); len(got) != 0 {
		t.Errorf("%v", got)
	}
	stop := errors.New("stop")
	if err := s.add([]byte("a"), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.each(func([]byte, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

// TestSorterFails returns errors of the device, and finds what changed.
func TestSorterFails(t *testing.T) {
	t.Parallel()
	full := errors.New("no space")
	fails := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWrite {
			return full
		}
		return nil
	})
	s, err := newSorter(errorfs.Wrap(vfs.NewMem(), fails), "scratch", 10)
	if err != nil {
		t.Fatal(err)
	}
	err = s.add([]byte("key"), bytes.Repeat([]byte{1}, 100))
	if err = errors.Join(err, s.add([]byte("key"), []byte("value"))); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}

	fs := vfs.NewMem()
	s, err = newSorter(fs, "scratch", 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"a", "b", "c"} {
		if err := s.add([]byte(k), []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	f, err := fs.Create(s.runs[0], vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(bytes.Repeat([]byte{1, 0, 0, 0}, 16))
	f.Close()
	if err := s.each(func([]byte, []byte) error { return nil }); !errors.Is(err, errScratch) {
		t.Errorf("a damaged file: %v", err)
	}
}

// TestSortKey keeps the order of object keys whatever bytes they have, and puts
// the later order first.
func TestSortKey(t *testing.T) {
	t.Parallel()
	id := metadata.BucketID{1}
	var last []byte
	for _, key := range []string{"\x00", "\x00\x00", "\x00\x01", "\x00\xff", "a", "a\x00", "a\x00b", "a\x01", "ab", "\xff"} {
		for _, order := range []uint64{1 << 60, 300, 2, 1} {
			for _, piece := range []int{0, 1, 300} {
				k := sortKey(id, &manifest.Entry{Key: key, Order: order, Piece: piece})
				if bytes.Compare(last, k) >= 0 {
					t.Errorf("%q, order %d, piece %d sorts before its predecessor", key, order, piece)
				}
				last = k
			}
		}
	}
}
