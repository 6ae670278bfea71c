// Package shardtest tests implementations of [object.Shards]: the in-process
// node, its network client and fakes all have to pass it.
package shardtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ruche-storage/ruche/erasure/shardhash"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// Subject is an implementation under test with one empty drive.
type Subject struct {
	Shards object.Shards
	Drive  topology.DriveID
}

// Shard is a whole shard as a gateway makes it.
type Shard struct {
	Record metadata.Record
	Framed []byte // cells, each followed by its checksum
	Footer metadata.Footer
}

// Ref returns where the shard is found.
func (s *Shard) Ref() metadata.ShardRef { return s.Record.Ref() }

// NewShard returns a shard of a 1+0 chunk of so many bytes, the content of
// which follows from rng. The placement group is pg.
func NewShard(rng *rand.Rand, pg uint32, chunkBytes int) *Shard {
	s := &Shard{Record: metadata.Record{
		Type: metadata.RecordShard, Scheme: metadata.NewScheme(1, 0), PG: pg,
		ChunkNo: rng.Uint32N(9), Generation: 3, Epoch: 1 + rng.Uint64N(99), Policy: 7,
	}}
	for _, id := range [][]byte{
		s.Record.Shard.Chunk[:], s.Record.Part[:], s.Record.Bucket[:], s.Record.Account[:],
	} {
		fill(rng, id)
	}
	cells := shardhash.NewCells(s.Record.Shard.Bytes())
	for number := 0; chunkBytes > number*metadata.CellBytes; number++ {
		n := min(chunkBytes-number*metadata.CellBytes, metadata.CellBytes)
		frame := make([]byte, (n+63)/64*64+shardhash.ChecksumBytes)
		fill(rng, frame[:n])
		cells.Frame(uint64(number), frame)
		s.Framed = append(s.Framed, frame...)
	}
	s.Footer = metadata.Footer{ChunkBytes: int64(chunkBytes), Sums: []metadata.Sum{metadata.Sum(cells.Sum())}}
	return s
}

func fill(rng *rand.Rand, b []byte) {
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, rng.Uint64())
		b = b[8:]
	}
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

// Put writes a shard, some cells at a time. announced is what Create is told
// of its length.
func Put(ctx context.Context, shards object.Shards, drive topology.DriveID, s *Shard, announced int64) error {
	w, err := shards.Create(ctx, drive, &s.Record, announced)
	if err != nil {
		return err
	}
	return write(w, s)
}

// PutNew is Put by CreateNew: of a shard that was never written before.
func PutNew(ctx context.Context, shards object.Shards, drive topology.DriveID, s *Shard, announced int64) error {
	w, err := shards.CreateNew(ctx, drive, &s.Record, announced)
	if err != nil {
		return err
	}
	return write(w, s)
}

func write(w object.ShardWriter, s *Shard) error {
	const run = 3 * (metadata.CellBytes + shardhash.ChecksumBytes)
	for rest := bytes.Clone(s.Framed); len(rest) > 0; { // Write may change what it is given
		n := min(run, len(rest))
		if _, err := w.Write(rest[:n]); err != nil {
			w.Abort()
			return err
		}
		rest = rest[n:]
	}
	return w.Close(&s.Footer)
}

// Check reads a whole shard back and compares it.
func Check(ctx context.Context, shards object.Shards, drive topology.DriveID, s *Shard) error {
	got := make([]byte, len(s.Framed))
	if err := shards.ReadAt(ctx, drive, s.Ref(), got, 0); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if !bytes.Equal(got, s.Framed) {
		return errors.New("other bytes were read than written")
	}
	if err := shards.Verify(ctx, drive, s.Ref()); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	st, err := shards.Stat(ctx, drive, s.Ref())
	if err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Record != s.Record || st.Footer.ChunkBytes != s.Footer.ChunkBytes || !slices.Equal(st.Footer.Sums, s.Footer.Sums) {
		return fmt.Errorf("stat = %+v, want %+v and %+v", st, s.Record, s.Footer)
	}
	if st.Bytes < int64(len(s.Framed)) {
		return fmt.Errorf("stat says %d bytes for a shard of %d", st.Bytes, len(s.Framed))
	}
	return nil
}

// Run runs the contract of [object.Shards] against the implementation that
// open makes, anew for each subtest.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	tests := []struct {
		name string
		run  func(t *testing.T, s Subject, rng *rand.Rand)
	}{
		{"shards of all sizes are read back", testSizes},
		{"a shard is there after Close and not before", testVisibility},
		{"an aborted shard is not there", testAbort},
		{"ranges", testRanges},
		{"what is missing is not found", testMissing},
		{"an absent drive is told apart", testAbsent},
		{"damaged cells are refused", testDamagedCells},
		{"a wrong footer is refused", testWrongFooter},
		{"a canceled context ends the write", testCanceled},
		{"Write may change its argument and keeps nothing", testBufferReuse},
		{"rows are pending until confirmed", testConfirm},
		{"freed shards are gone", testFree},
		{"a shard written twice is one row", testTwice},
		{"List goes by group, chunk and index, page by page", testList},
		{"records of other types", testRecords},
		{"many writers at once", testConcurrent},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open(t), rand.New(rand.NewPCG(uint64(i), 1)))
		})
	}
}

func put(t *testing.T, s Subject, shard *Shard) {
	t.Helper()
	if err := Put(t.Context(), s.Shards, s.Drive, shard, int64(len(shard.Framed))); err != nil {
		t.Fatalf("writing %d bytes: %v", len(shard.Framed), err)
	}
}

func check(t *testing.T, s Subject, shard *Shard) {
	t.Helper()
	if err := Check(t.Context(), s.Shards, s.Drive, shard); err != nil {
		t.Errorf("shard of %d bytes: %v", len(shard.Framed), err)
	}
}

// expectGone checks that every way to ask for a shard says that it is missing.
func expectGone(t *testing.T, s Subject, ref metadata.ShardRef) {
	t.Helper()
	if err := s.Shards.ReadAt(t.Context(), s.Drive, ref, make([]byte, 1), 0); !errors.Is(err, metadata.ErrShardNotFound) {
		t.Errorf("ReadAt = %v, want %v", err, metadata.ErrShardNotFound)
	}
	if _, err := s.Shards.Stat(t.Context(), s.Drive, ref); !errors.Is(err, metadata.ErrShardNotFound) {
		t.Errorf("Stat = %v, want %v", err, metadata.ErrShardNotFound)
	}
	if err := s.Shards.Verify(t.Context(), s.Drive, ref); !errors.Is(err, metadata.ErrShardNotFound) {
		t.Errorf("Verify = %v, want %v", err, metadata.ErrShardNotFound)
	}
}

func list(t *testing.T, s Subject, pendingOnly bool) []metadata.ShardRef {
	t.Helper()
	rows, err := s.Shards.List(t.Context(), s.Drive, metadata.ShardRef{}, pendingOnly, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var refs []metadata.ShardRef
	for i := range rows {
		refs = append(refs, rows[i].Ref())
	}
	return refs
}

func testSizes(t *testing.T, s Subject, rng *rand.Rand) {
	var shards []*Shard
	for _, n := range []int{0, 1, 63, 64, 65, 4096, 65520, 65536, 65537, 200_000, 1 << 20, 3<<20 + 5} {
		shard := NewShard(rng, 1, n)
		put(t, s, shard)
		shards = append(shards, shard)
		fresh := NewShard(rng, 1, n)
		if err := PutNew(t.Context(), s.Shards, s.Drive, fresh, int64(len(fresh.Framed))); err != nil {
			t.Fatalf("writing %d bytes anew: %v", n, err)
		}
		shards = append(shards, fresh)
		unknown := NewShard(rng, 1, n)
		if err := Put(t.Context(), s.Shards, s.Drive, unknown, -1); err != nil {
			t.Fatalf("writing %d bytes of unknown length: %v", n, err)
		}
		shards = append(shards, unknown)
	}
	for _, shard := range shards {
		check(t, s, shard)
	}
}

func testVisibility(t *testing.T, s Subject, rng *rand.Rand) {
	for _, n := range []int{1000, 2 << 20} {
		shard := NewShard(rng, 1, n)
		w := begin(t, s, shard)
		expectGone(t, s, shard.Ref())
		if err := w.Close(&shard.Footer); err != nil {
			t.Fatal(err)
		}
		w.Abort() // after Close it does nothing
		check(t, s, shard)
	}
}

// begin writes a shard but does not close it.
func begin(t *testing.T, s Subject, shard *Shard) object.ShardWriter {
	t.Helper()
	w, err := s.Shards.Create(t.Context(), s.Drive, &shard.Record, int64(len(shard.Framed)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Clone(shard.Framed)); err != nil {
		t.Fatal(err)
	}
	return w
}

func testAbort(t *testing.T, s Subject, rng *rand.Rand) {
	for _, n := range []int{1000, 2 << 20} {
		shard := NewShard(rng, 1, n)
		w := begin(t, s, shard)
		w.Abort()
		w.Abort()
		expectGone(t, s, shard.Ref())
	}
	if refs := list(t, s, false); len(refs) != 0 {
		t.Errorf("List = %v, want nothing", refs)
	}
}

func testRanges(t *testing.T, s Subject, rng *rand.Rand) {
	for _, n := range []int{5000, 2<<20 + 77} {
		shard := NewShard(rng, 1, n)
		put(t, s, shard)
		size := len(shard.Framed)
		for range 50 {
			off := rng.IntN(size)
			got := make([]byte, 1+rng.IntN(min(size-off, 100_000)))
			if err := s.Shards.ReadAt(t.Context(), s.Drive, shard.Ref(), got, int64(off)); err != nil {
				t.Fatalf("ReadAt %d bytes at %d of %d: %v", len(got), off, size, err)
			}
			if !bytes.Equal(got, shard.Framed[off:off+len(got)]) {
				t.Fatalf("ReadAt %d bytes at %d of %d returned other bytes", len(got), off, size)
			}
		}
		for _, off := range []int{size, size - 1, size + 1000} {
			err := s.Shards.ReadAt(t.Context(), s.Drive, shard.Ref(), make([]byte, 2), int64(off))
			if !errors.Is(err, metadata.ErrCorrupt) {
				t.Errorf("ReadAt 2 bytes at %d of %d = %v, want %v", off, size, err, metadata.ErrCorrupt)
			}
		}
	}
}

func testMissing(t *testing.T, s Subject, rng *rand.Rand) {
	shard := NewShard(rng, 1, 100)
	expectGone(t, s, shard.Ref())
	put(t, s, shard)
	other := shard.Ref()
	other.Shard.Index = 1
	expectGone(t, s, other)
	other = shard.Ref()
	other.PG++
	expectGone(t, s, other)
	refs := []metadata.ShardRef{other}
	if err := s.Shards.Confirm(t.Context(), s.Drive, refs); err != nil {
		t.Errorf("Confirm of a missing shard = %v, want nil", err)
	}
	if err := s.Shards.Free(t.Context(), s.Drive, refs); err != nil {
		t.Errorf("Free of a missing shard = %v, want nil", err)
	}
	check(t, s, shard)
}

func testAbsent(t *testing.T, s Subject, rng *rand.Rand) {
	absent := s
	absent.Drive[3] ^= 0xff
	shard := NewShard(rng, 1, 100)
	ctx, ref := t.Context(), shard.Ref()
	_, createErr := absent.Shards.Create(ctx, absent.Drive, &shard.Record, 100)
	_, statErr := absent.Shards.Stat(ctx, absent.Drive, ref)
	_, listErr := absent.Shards.List(ctx, absent.Drive, metadata.ShardRef{}, false, 1)
	refs := []metadata.ShardRef{ref}
	for name, err := range map[string]error{
		"Create": createErr, "Stat": statErr, "List": listErr,
		"ReadAt":    absent.Shards.ReadAt(ctx, absent.Drive, ref, make([]byte, 1), 0),
		"Verify":    absent.Shards.Verify(ctx, absent.Drive, ref),
		"Confirm":   absent.Shards.Confirm(ctx, absent.Drive, refs),
		"Free":      absent.Shards.Free(ctx, absent.Drive, refs),
		"PutRecord": absent.Shards.PutRecord(ctx, absent.Drive, &metadata.Record{Type: metadata.RecordBucket}, metadata.PayloadOf(nil)),
		"Records":   absent.Shards.Records(ctx, absent.Drive, metadata.RecordBucket, nil),
	} {
		if !errors.Is(err, metadata.ErrDriveAbsent) {
			t.Errorf("%s = %v, want %v", name, err, metadata.ErrDriveAbsent)
		}
	}
}

func testDamagedCells(t *testing.T, s Subject, rng *rand.Rand) {
	for _, n := range []int{1000, 2 << 20} {
		shard := NewShard(rng, 1, n)
		good := bytes.Clone(shard.Framed)
		shard.Framed[rng.IntN(len(good))] ^= 1 << rng.IntN(8)
		if err := Put(t.Context(), s.Shards, s.Drive, shard, int64(len(good))); !errors.Is(err, metadata.ErrCorrupt) {
			t.Errorf("writing a damaged shard of %d bytes = %v, want %v", n, err, metadata.ErrCorrupt)
		}
		expectGone(t, s, shard.Ref())
		shard.Framed = good
		put(t, s, shard)
		check(t, s, shard)
	}
}

func testWrongFooter(t *testing.T, s Subject, rng *rand.Rand) {
	tests := []struct {
		name string
		harm func(f *metadata.Footer)
	}{
		{"sum", func(f *metadata.Footer) { f.Sums = []metadata.Sum{{1}} }},
		{"no sums", func(f *metadata.Footer) { f.Sums = nil }},
		{"too many sums", func(f *metadata.Footer) { f.Sums = append(slices.Clone(f.Sums), metadata.Sum{}) }},
		{"length", func(f *metadata.Footer) { f.ChunkBytes += metadata.CellBytes }},
	}
	for _, test := range tests {
		for _, n := range []int{1000, 2 << 20} {
			shard := NewShard(rng, 1, n)
			test.harm(&shard.Footer)
			err := Put(t.Context(), s.Shards, s.Drive, shard, int64(len(shard.Framed)))
			if !errors.Is(err, metadata.ErrCorrupt) {
				t.Errorf("%s: Close = %v, want %v", test.name, err, metadata.ErrCorrupt)
			}
			expectGone(t, s, shard.Ref())
		}
	}
}

func testCanceled(t *testing.T, s Subject, rng *rand.Rand) {
	cause := errors.New("client went away")
	for _, n := range []int{1000, 2 << 20} {
		ctx, cancel := context.WithCancelCause(t.Context())
		shard := NewShard(rng, 1, n)
		w, err := s.Shards.Create(ctx, s.Drive, &shard.Record, int64(len(shard.Framed)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Clone(shard.Framed)); err != nil {
			t.Fatal(err)
		}
		cancel(cause)
		if err := w.Close(&shard.Footer); err == nil {
			t.Error("Close after the context was canceled = nil")
		}
		expectGone(t, s, shard.Ref())
	}
}

func testBufferReuse(t *testing.T, s Subject, rng *rand.Rand) {
	for _, n := range []int{200_000, 2 << 20} {
		shard := NewShard(rng, 1, n)
		w, err := s.Shards.Create(t.Context(), s.Drive, &shard.Record, int64(len(shard.Framed)))
		if err != nil {
			t.Fatal(err)
		}
		const frame = metadata.CellBytes + shardhash.ChecksumBytes
		buf := make([]byte, frame)
		for cell := range slices.Chunk(shard.Framed, frame) {
			copied := buf[:copy(buf, cell)]
			if _, err := w.Write(copied); err != nil {
				t.Fatal(err)
			}
			clear(copied)
		}
		if err := w.Close(&shard.Footer); err != nil {
			t.Fatal(err)
		}
		check(t, s, shard)
	}
}

func testConfirm(t *testing.T, s Subject, rng *rand.Rand) {
	a, b := NewShard(rng, 1, 100), NewShard(rng, 2, 2<<20)
	put(t, s, a)
	put(t, s, b)
	if got, want := list(t, s, true), []metadata.ShardRef{a.Ref(), b.Ref()}; !slices.Equal(got, want) {
		t.Errorf("pending = %v, want %v", got, want)
	}
	for range 2 {
		if err := s.Shards.Confirm(t.Context(), s.Drive, []metadata.ShardRef{a.Ref()}); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := list(t, s, true), []metadata.ShardRef{b.Ref()}; !slices.Equal(got, want) {
		t.Errorf("pending = %v, want %v", got, want)
	}
	for _, shard := range []*Shard{a, b} {
		st, err := s.Shards.Stat(t.Context(), s.Drive, shard.Ref())
		if err != nil {
			t.Fatal(err)
		}
		if want := shard == b; st.Pending != want {
			t.Errorf("Stat: pending = %t, want %t", st.Pending, want)
		}
	}
}

func testFree(t *testing.T, s Subject, rng *rand.Rand) {
	keep := []*Shard{NewShard(rng, 1, 300), NewShard(rng, 1, 2<<20)}
	drop := []*Shard{NewShard(rng, 1, 300), NewShard(rng, 2, 2<<20), NewShard(rng, 3, 0)}
	for _, shard := range append(slices.Clone(keep), drop...) {
		put(t, s, shard)
	}
	var refs []metadata.ShardRef
	for _, shard := range drop {
		check(t, s, shard)
		refs = append(refs, shard.Ref())
	}
	refs = append(refs, refs[0]) // twice in one call
	for range 2 {
		if err := s.Shards.Free(t.Context(), s.Drive, refs); err != nil {
			t.Fatal(err)
		}
	}
	for _, shard := range drop {
		expectGone(t, s, shard.Ref())
	}
	for _, shard := range keep {
		check(t, s, shard)
	}
	for _, pending := range []bool{false, true} {
		if got := list(t, s, pending); len(got) != len(keep) {
			t.Errorf("List(pendingOnly %t) has %d rows, want %d", pending, len(got), len(keep))
		}
	}
	put(t, s, drop[0]) // a repair may bring it back
	check(t, s, drop[0])
}

func testTwice(t *testing.T, s Subject, rng *rand.Rand) {
	for i, n := range []int{300, 2 << 20} {
		shard := NewShard(rng, uint32(i), n)
		if err := PutNew(t.Context(), s.Shards, s.Drive, shard, int64(len(shard.Framed))); err != nil {
			t.Fatal(err)
		}
		put(t, s, shard)
		if err := Put(t.Context(), s.Shards, s.Drive, shard, -1); err != nil {
			t.Fatal(err)
		}
		check(t, s, shard)
		if got := list(t, s, false); len(got) != i+1 {
			t.Errorf("List = %v, want %d rows", got, i+1)
		}
	}
}

func testList(t *testing.T, s Subject, rng *rand.Rand) {
	var want []metadata.ShardRef
	for i := range 40 {
		shard := NewShard(rng, []uint32{0, 1, 255, 256, 1 << 24}[i%5], 10+i)
		put(t, s, shard)
		want = append(want, shard.Ref())
	}
	slices.SortFunc(want, func(a, b metadata.ShardRef) int {
		if a.PG != b.PG {
			return int(int64(a.PG) - int64(b.PG))
		}
		return bytes.Compare(a.Shard.Chunk[:], b.Shard.Chunk[:])
	})
	for _, pending := range []bool{false, true} {
		if got := listByPages(t, s, pending); !slices.Equal(got, want) {
			t.Errorf("List(pendingOnly %t) = %v, want %v", pending, got, want)
		}
	}
}

func listByPages(t *testing.T, s Subject, pending bool) (got []metadata.ShardRef) {
	t.Helper()
	var after metadata.ShardRef
	for {
		page, err := s.Shards.List(t.Context(), s.Drive, after, pending, 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > 7 {
			t.Fatalf("List with limit 7 returned %d rows", len(page))
		}
		if len(page) == 0 {
			return got
		}
		for i := range page {
			if !page[i].Pending || page[i].Bytes == 0 || page[i].Epoch == 0 || page[i].Footer.ChunkBytes == 0 {
				t.Errorf("row = %+v, want a pending one with all fields", page[i])
			}
			got = append(got, page[i].Ref())
		}
		after = got[len(got)-1]
	}
}

func testRecords(t *testing.T, s Subject, rng *rand.Rand) {
	type stored struct {
		rec     metadata.Record
		payload []byte
	}
	var buckets []stored
	for i := range 20 {
		rec := metadata.Record{Type: metadata.RecordBucket, Epoch: uint64(i)}
		if i%4 == 3 {
			rec.Type = metadata.RecordManifest
		}
		fill(rng, rec.Shard.Chunk[:])
		fill(rng, rec.Bucket[:])
		payload := make([]byte, i*777)
		fill(rng, payload)
		if err := s.Shards.PutRecord(t.Context(), s.Drive, &rec, metadata.PayloadOf(payload)); err != nil {
			t.Fatal(err)
		}
		if rec.Type == metadata.RecordBucket {
			buckets = append(buckets, stored{rec, payload})
		}
	}
	var got []stored
	err := s.Shards.Records(t.Context(), s.Drive, metadata.RecordBucket, func(rec *metadata.Record, payload []byte) error {
		got = append(got, stored{*rec, bytes.Clone(payload)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	same := slices.EqualFunc(got, buckets, func(a, b stored) bool {
		return a.rec == b.rec && bytes.Equal(a.payload, b.payload)
	})
	if !same {
		t.Errorf("Records yields %d bucket records, want %d, oldest first", len(got), len(buckets))
	}
	stop := errors.New("enough")
	calls := 0
	err = s.Shards.Records(t.Context(), s.Drive, metadata.RecordBucket, func(*metadata.Record, []byte) error {
		calls++
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("Records = %v after %d calls, want %v after 1", err, calls, stop)
	}
	if refs := list(t, s, false); len(refs) != 0 {
		t.Errorf("List shows records that are not shards: %v", refs)
	}
	if err := s.Shards.Records(t.Context(), s.Drive, metadata.RecordAccount, func(*metadata.Record, []byte) error {
		return errors.New("there is none")
	}); err != nil {
		t.Errorf("Records of a type without records = %v", err)
	}
}

func testConcurrent(t *testing.T, s Subject, rng *rand.Rand) {
	const writers, each = 8, 6
	done := make(chan error, writers)
	for i := range writers {
		own := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
		go func() { done <- writeAndCheck(t.Context(), s, own, each) }()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := list(t, s, false); len(got) != writers*each/2 {
		t.Errorf("List has %d rows, want %d", len(got), writers*each/2)
	}
}

// writeAndCheck writes and reads some shards and frees every other one.
func writeAndCheck(ctx context.Context, s Subject, rng *rand.Rand, count int) error {
	for i := range count {
		shard := NewShard(rng, rng.Uint32N(4), 1+rng.IntN(1<<(10+rng.IntN(11))))
		if err := Put(ctx, s.Shards, s.Drive, shard, int64(len(shard.Framed))); err != nil {
			return err
		}
		if err := Check(ctx, s.Shards, s.Drive, shard); err != nil {
			return err
		}
		if i%2 == 0 {
			continue
		}
		if err := s.Shards.Free(ctx, s.Drive, []metadata.ShardRef{shard.Ref()}); err != nil {
			return err
		}
		if err := s.Shards.Verify(ctx, s.Drive, shard.Ref()); !errors.Is(err, metadata.ErrShardNotFound) {
			return fmt.Errorf("verify of a freed shard = %w, want %w", err, metadata.ErrShardNotFound)
		}
	}
	return nil
}
