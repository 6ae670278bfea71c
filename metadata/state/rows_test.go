package state

import (
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// text is a row of any bytes.
type text string

// Unmarshal keeps the bytes.
func (t *text) Unmarshal(v []byte) error {
	*t = text(v)
	return nil
}

// TestRowsAreFound compares what a batch finds with a map, over many batches,
// flushes and compactions.
func TestRowsAreFound(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			findRows(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

func findRows(t *testing.T, r *rand.Rand) {
	o := &pebble.Options{FS: vfs.NewMem(), Logger: quiet{}, FormatMajorVersion: pebble.FormatNewest}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open("db", o)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	key := func() []byte {
		table := []table{tableCurrent, tableResults}[r.IntN(2)]
		return fmt.Appendf(appendHead(nil, 3, table), "%02d", r.IntN(40))
	}
	model, seed := make(map[string]string), maphash.MakeSeed()
	for range 60 {
		b, after := newRows(db, seed), maps.Clone(model)
		for range r.IntN(30) {
			k := key()
			switch n := r.IntN(40); {
			case n < 10:
				v := fmt.Sprint(r.Uint32())
				must(t, b.Set(append([]byte(nil), k...), []byte(v), nil))
				after[string(k)] = v
			case n < 15:
				must(t, b.Delete(k, nil))
				delete(after, string(k))
			case n == 15:
				must(t, b.DeleteRange(k, append(k[:keyHead:keyHead], 0xff), nil))
				maps.DeleteFunc(after, func(o, _ string) bool { return o[:keyHead] == string(k[:keyHead]) && o >= string(k) })
			}
			k = key()
			var got text
			found, err := b.find(k, &got)
			if want, is := after[string(k)]; err != nil || found != is || string(got) != want {
				t.Fatalf("find %q: %q, %v, %v; want %q, %v", k, got, found, err, want, is)
			}
		}
		if r.IntN(4) == 0 {
			must(t, b.Close())
			continue
		}
		must(t, b.Commit(pebble.NoSync))
		must(t, b.Close())
		model = after
		switch r.IntN(6) {
		case 0:
			must(t, db.Flush())
		case 1:
			must(t, db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// quiet logs nothing.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, args ...any) {
	panic(fmt.Sprintf(f, args...))
}
