package snapshot_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

const (
	group  = 7
	format = pebble.FormatMajorVersion(20)
	dbDir  = "store"
	snaps  = "store/snap"
)

type quiet struct{ t testing.TB }

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (q quiet) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

// openDB opens a state Pebble as a replicated store has it: without a log.
func openDB(t testing.TB, fs vfs.FS) *pebble.DB {
	t.Helper()
	db, err := pebble.Open(dbDir, &pebble.Options{FS: fs, FormatMajorVersion: format, DisableWAL: true,
		MemTableStopWritesThreshold: 4, Logger: quiet{t}})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func key(group uint32, name string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, group), name...)
}

// applied is the row that a store keeps of where it stands.
func applied(group uint32) []byte { return key(group, "\x06") }

type rows map[string]string

// fill writes n rows of random bytes and where the group stands.
func fill(t testing.TB, db *pebble.DB, group uint32, n, valueBytes int, r *rand.Rand) rows {
	t.Helper()
	all := rows{string(applied(group)): fmt.Sprintf("at %d", r.Uint32())}
	for range n {
		v := make([]byte, r.IntN(2*valueBytes))
		for i := range v {
			v[i] = byte(r.Uint32())
		}
		all[string(key(group, fmt.Sprintf("\x10row%09d", r.IntN(1e9))))] = string(v)
	}
	put(t, db, all)
	return all
}

func put(t testing.TB, db *pebble.DB, all rows) {
	t.Helper()
	b := db.NewBatch()
	for k, v := range all {
		if err := b.Set([]byte(k), []byte(v), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
}

// read returns the rows of a group.
func read(t testing.TB, src snapshot.Source, group uint32) rows {
	t.Helper()
	lower, upper := snapshot.Span(group)
	it, err := src.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		t.Fatal(err)
	}
	all := rows{}
	for ok := it.First(); ok; ok = it.Next() {
		all[string(it.Key())] = string(it.Value())
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return all
}

func same(t testing.TB, what string, got, want rows) {
	t.Helper()
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			t.Fatalf("%s: row %x is %d bytes, %v; want %d bytes", what, k, len(g), ok, len(v))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d rows, want %d", what, len(got), len(want))
	}
}

func header(group uint32, id byte) snapshot.Header {
	return snapshot.Header{ID: snapshot.ID{id}, Cluster: [16]byte{9}, Group: group, Index: 40, Term: 3, Conf: []byte{8, 1}}
}

func tables() sstable.WriterOptions {
	return sstable.WriterOptions{TableFormat: format.MaxTableFormat(), BlockSize: 32 << 10, FilterPolicy: bloom.FilterPolicy(10)}
}

// open exports a group in pieces of about 16 KiB.
func open(t testing.TB, src snapshot.Source, h snapshot.Header, o snapshot.ExportOptions) *snapshot.Export {
	t.Helper()
	o.Tables = tables()
	if o.PieceBytes == 0 {
		o.PieceBytes = 16 << 10
	}
	e, err := snapshot.Open(src, h.Group, func(func([]byte) ([]byte, error)) (snapshot.Header, error) { return h, nil }, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// pieces returns all pieces of an export.
func pieces(t testing.TB, e *snapshot.Export) []snapshot.Piece {
	t.Helper()
	var all []snapshot.Piece
	for {
		p, err := e.Next(t.Context())
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		c := *p
		c.Data = bytes.Clone(p.Data)
		all = append(all, c)
	}
}

func openStage(t testing.TB, fs vfs.FS, o snapshot.StageOptions) *snapshot.Stage {
	t.Helper()
	s, err := snapshot.OpenStage(fs, snaps, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func begin(t testing.TB, s *snapshot.Stage, h snapshot.Header) *snapshot.Receive {
	t.Helper()
	r, err := s.Begin(h)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// transfer sends what is missing and completes.
func transfer(t testing.TB, e *snapshot.Export, r *snapshot.Receive) *snapshot.Staged {
	t.Helper()
	if err := e.Seek(r.Position()); err != nil {
		t.Fatal(err)
	}
	for {
		p, err := e.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err == nil {
			err = r.Add(p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	st, err := r.Complete(t.Context(), e.Summary())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func closed(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRoundTrip replaces what a store holds of a group, in memtables and in
// tables, by the rows of another store, and keeps the neighbours.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 30, 3000} {
		for _, flush := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d rows, flushed %v", n, flush), func(t *testing.T) {
				t.Parallel()
				r := rand.New(rand.NewPCG(1, uint64(n)))
				src := openDB(t, vfs.NewMem())
				t.Cleanup(func() { closed(t, src) })
				fill(t, src, group-1, 20, 100, r)
				fill(t, src, group+1, 20, 100, r)
				want := rows{}
				if n > 0 {
					want = fill(t, src, group, n, 200, r)
				}
				snap := src.NewSnapshot()
				t.Cleanup(func() { closed(t, snap) })
				fill(t, src, group, 40, 100, r) // later than the snapshot

				fs := vfs.NewMem()
				dst := openDB(t, fs)
				low, high := fill(t, dst, group-1, 50, 100, r), fill(t, dst, group+1, 50, 100, r)
				fill(t, dst, group, 500, 100, r) // stale
				if flush {
					if err := dst.Flush(); err != nil {
						t.Fatal(err)
					}
				}
				stage := openStage(t, fs, snapshot.StageOptions{})
				h := header(group, 1)
				e := open(t, snap, h, snapshot.ExportOptions{})
				st := transfer(t, e, begin(t, stage, h))
				if n == 3000 && st.Summary.Pieces < 10 {
					t.Errorf("%d pieces", st.Summary.Pieces)
				}
				if st.Summary.Rows != uint64(len(want)) {
					t.Errorf("summary is of %d rows, want %d", st.Summary.Rows, len(want))
				}
				for range 2 { // once more is no harm
					if err := snapshot.Install(t.Context(), dst, st); err != nil {
						t.Fatal(err)
					}
					same(t, "the group", read(t, dst, group), want)
				}
				if err := stage.Remove(h.ID); err != nil {
					t.Fatal(err)
				}
				closed(t, dst)
				dst = openDB(t, fs)
				defer closed(t, dst)
				same(t, "the group after a restart", read(t, dst, group), want)
				same(t, "the group below", read(t, dst, group-1), low)
				same(t, "the group above", read(t, dst, group+1), high)
				if left, err := fs.List(snaps); err != nil || len(left) != 0 {
					t.Errorf("the stage holds %v, %v", left, err)
				}
			})
		}
	}
}

// TestDescribe takes the header from the row of the state that is exported, and
// from no later one.
func TestDescribe(t *testing.T) {
	t.Parallel()
	db := openDB(t, vfs.NewMem())
	t.Cleanup(func() { closed(t, db) })
	at := metadata.RaftPosition{Index: 40, Term: 3, Conf: []byte{8, 1}}
	put(t, db, rows{string(applied(group)): string(at.AppendTo(nil))})
	snap := db.NewSnapshot()
	t.Cleanup(func() { closed(t, snap) })
	put(t, db, rows{string(applied(group)): "later", string(key(group, "z")): "z"})
	e, err := snapshot.Open(snap, group, snapshot.Describe([16]byte{9}, snapshot.ID{1}, group), snapshot.ExportOptions{Tables: tables()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, e) })
	if diff := cmp.Diff(header(group, 1), e.Header()); diff != "" {
		t.Error(diff)
	}
	if all := pieces(t, e); len(all) != 1 || all[0].Rows != 1 {
		t.Errorf("pieces are %v", all)
	}
	if _, err := snapshot.Open(db, group, snapshot.Describe([16]byte{9}, snapshot.ID{1}, group), snapshot.ExportOptions{Tables: tables()}); err == nil {
		t.Error("a malformed row was taken")
	}
	none, err := snapshot.Open(db, group+1, snapshot.Describe([16]byte{9}, snapshot.ID{1}, group+1), snapshot.ExportOptions{Tables: tables()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, none) })
	if diff := cmp.Diff(snapshot.Header{ID: snapshot.ID{1}, Cluster: [16]byte{9}, Group: group + 1}, none.Header()); diff != "" {
		t.Error(diff)
	}
}

// TestExportOutlivesInstallation exports a group of a store that takes in a
// snapshot of that very group meanwhile.
func TestExportOutlivesInstallation(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 3))
	fs := vfs.NewMem()
	db := openDB(t, fs)
	t.Cleanup(func() { closed(t, db) })
	want := fill(t, db, group, 900, 200, r)
	src := openDB(t, vfs.NewMem())
	t.Cleanup(func() { closed(t, src) })
	fill(t, src, group, 10, 200, r)

	old := open(t, db, header(group, 2), snapshot.ExportOptions{})
	if _, err := old.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := transfer(t, open(t, src, header(group, 1), snapshot.ExportOptions{}), begin(t, openStage(t, fs, snapshot.StageOptions{}), header(group, 1)))
	if err := snapshot.Install(t.Context(), db, st); err != nil {
		t.Fatal(err)
	}
	fs2 := vfs.NewMem()
	dst := openDB(t, fs2)
	t.Cleanup(func() { closed(t, dst) })
	again := transfer(t, old, begin(t, openStage(t, fs2, snapshot.StageOptions{}), header(group, 2)))
	if err := snapshot.Install(t.Context(), dst, again); err != nil {
		t.Fatal(err)
	}
	same(t, "the older rows", read(t, dst, group), want)
}

// TestPieces looks at sizes, limits and what may be left out.
func TestPieces(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(4, 4))
	db := openDB(t, vfs.NewMem())
	t.Cleanup(func() { closed(t, db) })
	fill(t, db, group, 2000, 500, r)
	put(t, db, rows{string(key(group, "large")): string(make([]byte, 40<<10)) + string(bytes.Repeat([]byte("0123456789abcdef"), 4096))})
	e := open(t, db, header(group, 1), snapshot.ExportOptions{PieceBytes: 64 << 10, Skip: func(k []byte) bool { return bytes.Equal(k, applied(group)) }})
	all := pieces(t, e)
	var n uint64
	for i, p := range all {
		n += p.Rows
		if len(p.Data) > 64<<10 && p.Rows > 1 {
			t.Errorf("piece %d is of %d bytes", i, len(p.Data))
		}
		if i > 0 && bytes.Compare(p.First, all[i-1].Last) <= 0 {
			t.Errorf("piece %d begins before the end of the one before", i)
		}
	}
	if sum := e.Summary(); n != sum.Rows || sum.Pieces != uint64(len(all)) || n != uint64(len(read(t, db, group))-1) {
		t.Errorf("%d rows in %d pieces, summary %+v", n, len(all), sum)
	}
	// From any piece on, in any order, the same pieces come.
	for _, i := range r.Perm(len(all)) {
		at := snapshot.Position{Snapshot: header(group, 1).ID}
		if i > 0 {
			at.Pieces, at.After, at.Chain = uint64(i), all[i-1].Last, all[i-1].Chain
		}
		if err := e.Seek(at); err != nil {
			t.Fatal(err)
		}
		if p, err := e.Next(t.Context()); err != nil || p.Chain != all[i].Chain || p.Sum != all[i].Sum {
			t.Errorf("piece %d differs the second time: %v", i, err)
		}
	}
	if err := e.Seek(snapshot.Position{}); !errors.Is(err, snapshot.ErrForeign) {
		t.Errorf("Seek to a foreign position = %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the follower left"))
	if err := e.Seek(snapshot.Position{Snapshot: header(group, 1).ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Next(ctx); err == nil || !errors.Is(err, context.Cause(ctx)) {
		t.Errorf("Next = %v", err)
	}
	if p, err := e.Next(t.Context()); err != nil || p.Sum != all[0].Sum {
		t.Errorf("after that, Next = %v", err)
	}
	closed(t, e)
	if _, err := e.Next(t.Context()); !errors.Is(err, snapshot.ErrClosed) {
		t.Errorf("Next of a closed export = %v", err)
	}
}

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

// BenchmarkSnapshot moves a group of 100,000 rows of 440 bytes, half of them
// compressible, from one store in memory to another.
func BenchmarkSnapshot(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	src := openDB(b, vfs.NewMem())
	b.Cleanup(func() { closed(b, src) })
	var n int64
	v := make([]byte, 440)
	batch := src.NewBatch()
	for i := range 100_000 {
		for j := range 220 {
			v[j] = byte(r.Uint32())
		}
		k := key(group, fmt.Sprintf("\x22bucket/dir%04d/object-%010d", r.IntN(5000), i))
		n += int64(len(k) + len(v))
		if err := batch.Set(k, v, nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(batch.Commit(pebble.NoSync), src.Flush()); err != nil {
		b.Fatal(err)
	}
	b.Run("export", func(b *testing.B) {
		b.SetBytes(n)
		for b.Loop() {
			e := open(b, src, header(group, 1), snapshot.ExportOptions{PieceBytes: snapshot.PieceBytes})
			for {
				if _, err := e.Next(b.Context()); err == io.EOF {
					break
				} else if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	e := open(b, src, header(group, 1), snapshot.ExportOptions{PieceBytes: snapshot.PieceBytes})
	all := pieces(b, e)
	b.Run("receive and install", func(b *testing.B) {
		b.SetBytes(n)
		for b.Loop() {
			fs := vfs.NewMem()
			dst := openDB(b, fs)
			rec := begin(b, openStage(b, fs, snapshot.StageOptions{}), e.Header())
			for i := range all {
				if err := rec.Add(&all[i]); err != nil {
					b.Fatal(err)
				}
			}
			st, err := rec.Complete(b.Context(), e.Summary())
			if err == nil {
				err = snapshot.Install(b.Context(), dst, st)
			}
			if err != nil {
				b.Fatal(err)
			}
			closed(b, dst)
		}
	})
}
