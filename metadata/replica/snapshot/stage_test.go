package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// TestRefused gives a receiver pieces that are not what is next.
func TestRefused(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 5))
	db := openDB(t, vfs.NewMem())
	t.Cleanup(func() { closed(t, db) })
	fill(t, db, group, 600, 300, r)
	fill(t, db, group+1, 600, 300, r)
	good := pieces(t, open(t, db, header(group, 1), snapshot.ExportOptions{}))
	twin := pieces(t, open(t, db, header(group, 2), snapshot.ExportOptions{}))
	other := pieces(t, open(t, db, header(group+1, 1), snapshot.ExportOptions{}))
	whole := open(t, db, header(group, 1), snapshot.ExportOptions{})
	pieces(t, whole)

	stage := openStage(t, vfs.NewMem(), snapshot.StageOptions{})
	rec := begin(t, stage, header(group, 1))
	if err := rec.Add(&good[0]); err != nil {
		t.Fatal(err)
	}
	flip := func(at int) snapshot.Piece {
		p := good[1]
		p.Data = bytes.Clone(p.Data)
		p.Data[at] ^= 1
		return p
	}
	change := func(f func(p *snapshot.Piece)) snapshot.Piece {
		p := good[1]
		f(&p)
		return p
	}
	for _, c := range []struct {
		name string
		p    snapshot.Piece
		want error
	}{
		{"first byte flipped", flip(0), snapshot.ErrCorrupt},
		{"last byte flipped", flip(len(good[1].Data) - 1), snapshot.ErrCorrupt},
		{"truncated", change(func(p *snapshot.Piece) { p.Data = p.Data[:len(p.Data)-1] }), snapshot.ErrCorrupt},
		{"without bytes", change(func(p *snapshot.Piece) { p.Data = nil }), snapshot.ErrCorrupt},
		{"repeated", good[0], snapshot.ErrOrder},
		{"skipped", good[2], snapshot.ErrOrder},
		{"skipped and renumbered", func() snapshot.Piece { p := good[2]; p.Number = 2; return p }(), snapshot.ErrCorrupt},
		{"other keys", change(func(p *snapshot.Piece) { p.Last = append(p.Last, 0) }), snapshot.ErrCorrupt},
		{"other rows", change(func(p *snapshot.Piece) { p.Rows++ }), snapshot.ErrCorrupt},
		{"of a twin", twin[1], snapshot.ErrForeign},
		{"of a twin, renamed", func() snapshot.Piece { p := twin[1]; p.Snapshot = good[1].Snapshot; return p }(), snapshot.ErrCorrupt},
		{"of another group", other[1], snapshot.ErrCorrupt},
	} {
		if err := rec.Add(&c.p); !errors.Is(err, c.want) {
			t.Errorf("%s: Add = %v, want %v", c.name, err, c.want)
		}
		if at := rec.Position(); at.Pieces != 1 {
			t.Fatalf("%s: the position is %+v", c.name, at)
		}
	}
	if _, err := rec.Complete(t.Context(), whole.Summary()); !errors.Is(err, snapshot.ErrIncomplete) {
		t.Errorf("Complete = %v", err)
	}
	for i := range good[1:] {
		if err := rec.Add(&good[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	wrong := whole.Summary()
	wrong.Rows++
	if _, err := rec.Complete(t.Context(), wrong); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("Complete of another summary = %v", err)
	}
	if _, err := rec.Complete(t.Context(), whole.Summary()); err != nil {
		t.Errorf("Complete = %v", err)
	}
}

// TestForeignTable gives a receiver a table that is consistent in itself and
// holds keys of another group, or others than it says.
func TestForeignTable(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(6, 6))
	db := openDB(t, vfs.NewMem())
	t.Cleanup(func() { closed(t, db) })
	fill(t, db, group, 5, 300, r)
	fill(t, db, group+1, 5, 300, r)
	h := header(group+1, 1)
	alien := pieces(t, open(t, db, h, snapshot.ExportOptions{}))[0]
	h.Group = group
	honest := pieces(t, open(t, db, h, snapshot.ExportOptions{}))[0]
	liar := honest
	liar.Data, liar.Sum, liar.Bytes = alien.Data, alien.Sum, alien.Bytes
	for name, p := range map[string]snapshot.Piece{"honest about its keys": alien, "lying about its keys": liar} {
		rec := begin(t, openStage(t, vfs.NewMem(), snapshot.StageOptions{}), h)
		p.Chain = snapshot.ChainOf(&h, &p)
		if err := rec.Add(&p); !errors.Is(err, snapshot.ErrForeign) {
			t.Errorf("%s: Add = %v", name, err)
		}
	}
}

// TestDamageOnDisk changes staged files: it is found when the snapshot is
// completed or found again, before anything is installed.
func TestDamageOnDisk(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 7))
	db := openDB(t, vfs.NewMem())
	t.Cleanup(func() { closed(t, db) })
	fill(t, db, group, 300, 300, r)
	h := header(group, 1)
	fs := vfs.NewMem()
	rec := begin(t, openStage(t, fs, snapshot.StageOptions{}), h)
	e := open(t, db, h, snapshot.ExportOptions{})
	transfer(t, e, rec)
	name := fs.PathJoin(snaps, h.ID.String(), "00000002.sst")
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xee}, 100); err != nil {
		t.Fatal(err)
	}
	closed(t, f)
	if _, err := rec.Complete(t.Context(), e.Summary()); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("Complete = %v", err)
	}
	if _, err := openStage(t, fs, snapshot.StageOptions{}).Find(t.Context(), h.ID); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("Find = %v", err)
	}
	// A piece that is cut short counts as not there, with all behind it.
	if err := fs.Remove(name); err != nil {
		t.Fatal(err)
	}
	stage := openStage(t, fs, snapshot.StageOptions{})
	if at := begin(t, stage, h).Position(); at.Pieces != 1 {
		t.Errorf("the position is %+v", at)
	}
	if _, err := stage.Find(t.Context(), snapshot.ID{99}); !errors.Is(err, snapshot.ErrUnknown) {
		t.Errorf("Find of an unknown one = %v", err)
	}
}

// TestStage begins snapshots of several groups and lets newer ones take the
// place of older ones.
func TestStage(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(8, 8))
	db := openDB(t, vfs.NewMem())
	t.Cleanup(func() { closed(t, db) })
	fs := vfs.NewMem()
	if err := fs.MkdirAll(fs.PathJoin(snaps, "not-a-snapshot"), 0o700); err != nil {
		t.Fatal(err)
	}
	stage := openStage(t, fs, snapshot.StageOptions{})
	first := map[uint32]snapshot.Piece{}
	for g := uint32(1); g <= 3; g++ {
		fill(t, db, g, 200, 300, r)
		first[g] = pieces(t, open(t, db, header(g, byte(g)), snapshot.ExportOptions{}))[0]
		p := first[g]
		if err := begin(t, stage, header(g, byte(g))).Add(&p); err != nil {
			t.Fatal(err)
		}
	}
	old := begin(t, stage, header(2, 2))
	if at := old.Position(); at.Pieces != 1 || at.Chain != first[2].Chain || !bytes.Equal(at.After, first[2].Last) {
		t.Errorf("the position is %+v", at)
	}
	newer := begin(t, stage, header(2, 22))
	p := first[2]
	if err := old.Add(&p); !errors.Is(err, snapshot.ErrClosed) {
		t.Errorf("Add to an overtaken snapshot = %v", err)
	}
	if at := newer.Position(); at.Pieces != 0 {
		t.Errorf("the position is %+v", at)
	}
	for range 2 {
		var got []string
		all, err := stage.Staged()
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range all {
			got = append(got, fmt.Sprint(h.Group, "-", h.ID[0]))
		}
		slices.Sort(got)
		if want := []string{"1-1", "2-22", "3-3"}; !slices.Equal(got, want) {
			t.Errorf("staged are %v, want %v", got, want)
		}
		stage = openStage(t, fs, snapshot.StageOptions{})
	}
	// The same id with another header is another snapshot.
	h := header(1, 1)
	h.Index++
	if at := begin(t, stage, h).Position(); at.Pieces != 0 {
		t.Errorf("the position is %+v", at)
	}
}

// TestFull lets the stage run out of room in three ways.
func TestFull(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(9, 9))
	db := openDB(t, vfs.NewMem())
	t.Cleanup(func() { closed(t, db) })
	want := fill(t, db, group, 300, 300, r)
	var noSpace atomic.Bool
	var avail atomic.Uint64
	avail.Store(1 << 40)
	mem := vfs.NewMem()
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if noSpace.Load() && op.Kind == errorfs.OpFileWrite {
			return &errnoError{syscall.ENOSPC}
		}
		return nil
	}))
	usage := func() (vfs.DiskUsage, error) { return vfs.DiskUsage{AvailBytes: avail.Load()}, nil }
	h := header(group, 1)
	e := open(t, db, h, snapshot.ExportOptions{})
	all := pieces(t, e)
	rec := begin(t, openStage(t, fs, snapshot.StageOptions{DiskUsage: usage, ReserveBytes: 1 << 20}), h)
	if err := rec.Add(&all[0]); err != nil {
		t.Fatal(err)
	}
	for name, full := range map[string]func(bool){
		"a write fails": noSpace.Store,
		"little is free": func(full bool) {
			avail.Store(1 << 40)
			if full {
				avail.Store(1<<20 + 100)
			}
		},
	} {
		full(true)
		if err := rec.Add(&all[1]); !errors.Is(err, snapshot.ErrFull) {
			t.Errorf("%s: Add = %v", name, err)
		}
		if left, _ := mem.List(fs.PathJoin(snaps, h.ID.String())); len(left) != 3 {
			t.Errorf("%s: the stage holds %v", name, left)
		}
		full(false)
	}
	small := begin(t, openStage(t, vfs.NewMem(), snapshot.StageOptions{MaxBytes: int64(all[0].Bytes + 10)}), h)
	if err := small.Add(&all[0]); err != nil {
		t.Fatal(err)
	}
	if err := small.Add(&all[1]); !errors.Is(err, snapshot.ErrFull) {
		t.Errorf("Add beyond the stage's limit = %v", err)
	}
	// With room, it goes on.
	st := transfer(t, e, rec)
	dst := openDB(t, fs)
	t.Cleanup(func() { closed(t, dst) })
	if err := snapshot.Install(t.Context(), dst, st); err != nil {
		t.Fatal(err)
	}
	same(t, "the group", read(t, dst, group), want)
}

type errnoError struct{ errno syscall.Errno }

func (e *errnoError) Error() string { return "write: " + e.errno.Error() }
func (e *errnoError) Unwrap() error { return e.errno }
