package snapshot_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
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
	db, err := pebble.Open(dbDir, &pebble.Options{FS: markersLast{fs}, FormatMajorVersion: format, DisableWAL: true,
		MemTableStopWritesThreshold: 4, Logger: quiet{t}})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// markersLast makes the files of a directory durable before a marker that names
// one of them, as the file system below a store does.
type markersLast struct{ vfs.FS }

func (f markersLast) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		d, err := f.OpenDir(f.PathDir(name))
		if err != nil {
			return nil, err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return nil, err
		}
	}
	return f.FS.Create(name, category)
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
