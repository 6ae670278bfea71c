package state_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// A stream makes random commands that make sense for the state they meet.
type stream struct {
	*script
	r     *rand.Rand
	n     int
	epoch uint64
	log   []logged
}

// logged is a command of the stream and what became of it.
type logged struct {
	position uint64
	cmd      *metadata.Command
	res      *metadata.Result
}

func newStream(t *testing.T, seed uint64) *stream {
	db := openDB(t)
	s := &stream{r: rand.New(rand.NewPCG(seed, 1)), epoch: 1,
		script: &script{t: t, db: db, machine: state.New(db), stamp: 1_000_000, names: make(map[[16]byte]string)}}
	s.do(&metadata.Command{Kind: metadata.KindFence, Fence: &metadata.Fence{Floor: 1, Living: []uint64{1}}})
	s.do(&metadata.Command{Kind: metadata.KindOpenBucket, Settle: &metadata.Settings{Bucket: ref.ID, Name: "b"}})
	return s
}

func (s *stream) do(c *metadata.Command) *metadata.Result {
	s.n++
	s.stamp += uint64(s.r.IntN(1000))
	if s.r.IntN(200) == 0 {
		s.stamp += 3 * 24 * 3600 * 1_000_000 // so that completions expire
	}
	c.Version, c.Group, c.Stamp, c.Settings = metadata.CommandVersion, 1, s.stamp, 1
	if c.Kind != metadata.KindFence && c.Kind != metadata.KindClock {
		c.Epoch = s.epoch
	}
	c.Request = id16(fmt.Sprint("request", s.n))
	if s.r.IntN(20) == 0 && len(s.log) > 0 {
		// A retry of something earlier, under its own stamp.
		again := *s.log[s.r.IntN(len(s.log))].cmd
		again.Stamp = s.stamp
		s.logged(&again)
	}
	return s.logged(c)
}

func (s *stream) logged(c *metadata.Command) *metadata.Result {
	res := s.apply(c)
	s.log = append(s.log, logged{position: uint64(len(s.log) + 1), cmd: c, res: res})
	return res
}

func (s *stream) key() string { return fmt.Sprintf("k/%d", s.r.IntN(12)) }

func (s *stream) part(number uint32) (p metadata.Part, chunks []metadata.Chunk, inline []byte) {
	p = metadata.Part{Number: number, ID: id16(fmt.Sprint("part", s.n)), Bytes: int64(1 + s.r.IntN(100))}
	p.SealedBytes = p.Bytes
	if s.r.IntN(2) == 0 {
		p.Body = metadata.BodyInline
		return p, nil, bytes.Repeat([]byte{7}, int(p.Bytes))
	}
	p.Body = metadata.BodyChunks
	return p, []metadata.Chunk{{ID: id16(fmt.Sprint("chunk", s.n)), Bytes: p.SealedBytes}}, nil
}

func (s *stream) step() {
	switch s.r.IntN(12) {
	case 0, 1, 2:
		p, chunks, inline := s.part(1)
		v := metadata.Version{Null: true, Bytes: p.Bytes, ETag: fmt.Sprint(s.r.IntN(3)), Part: &p}
		c := &metadata.CommitVersion{Bucket: ref.ID, Key: s.key(), Version: v, Chunks: chunks, Inline: inline}
		c.Conditions.IfNoneMatch = s.r.IntN(4) == 0
		if p.Body == metadata.BodyChunks && s.r.IntN(3) == 0 {
			c.Short = []metadata.Short{{Missing: 2}}
		}
		s.do(&metadata.Command{Kind: metadata.KindCommitVersion, CommitVersion: c})
	case 3:
		d := &metadata.DeleteVersions{Bucket: ref.ID}
		for range 1 + s.r.IntN(4) {
			d.Keys = append(d.Keys, metadata.DeleteKey{Key: s.key()})
		}
		s.do(&metadata.Command{Kind: metadata.KindDeleteVersions, Delete: d})
	case 4:
		s.do(&metadata.Command{Kind: metadata.KindCreateUpload, CreateUpload: &metadata.CreateUpload{
			Bucket: ref.ID, Upload: metadata.Upload{ID: id16(fmt.Sprint("upload", s.n)), Key: s.key()}}})
	case 5, 6, 7:
		s.upload(func(u *metadata.Upload) {
			p, chunks, inline := s.part(uint32(1 + s.r.IntN(5)))
			s.do(&metadata.Command{Kind: metadata.KindCommitPart, CommitPart: &metadata.CommitPart{
				Bucket: ref.ID, Key: u.Key, Upload: u.ID, Part: p, Chunks: chunks, Inline: inline}})
		})
	case 8:
		s.upload(s.completeSome)
	case 9:
		s.upload(func(u *metadata.Upload) {
			if s.r.IntN(3) == 0 {
				s.do(&metadata.Command{Kind: metadata.KindAbortUpload, Abort: &metadata.AbortUpload{Bucket: ref.ID, Key: u.Key, Upload: u.ID}})
			}
		})
	case 10:
		s.collect()
	case 11:
		if s.r.IntN(8) == 0 {
			s.epoch++
			s.do(&metadata.Command{Kind: metadata.KindFence, Fence: &metadata.Fence{Floor: s.epoch - 1, Living: []uint64{s.epoch - 1, s.epoch}}})
		}
		s.do(&metadata.Command{Kind: metadata.KindClock, Clock: &metadata.Clock{ElapsedMicros: 5}})
	}
}

func (s *stream) upload(f func(*metadata.Upload)) {
	res, err := s.view().Uploads(&metadata.UploadsQuery{Bucket: ref, Limit: 100})
	if err != nil {
		s.t.Fatal(err)
	}
	if n := len(res.Uploads); n > 0 {
		f(&res.Uploads[s.r.IntN(n)])
	}
}

func (s *stream) completeSome(u *metadata.Upload) {
	parts, err := s.view().Parts(ref, u.ID, 0, 100)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &metadata.Complete{Bucket: ref.ID, Key: u.Key, Upload: u.ID, Version: metadata.Version{Null: true}}
	list := &metadata.PartList{ID: u.ID}
	for _, p := range parts {
		if s.r.IntN(4) == 0 {
			continue
		}
		if len(list.Pages) == 0 {
			list.Pages = []metadata.PartPage{{FirstNumber: p.Number}}
		}
		c.Version.Bytes += p.Bytes
		list.Parts++
		c.Parts = append(c.Parts, metadata.PartRef{Number: p.Number, ID: p.ID})
	}
	c.Version.List = list
	c.ListHash = sha256.Sum256(fmt.Append(nil, c.Parts))
	s.do(&metadata.Command{Kind: metadata.KindComplete, Complete: c})
}

// collect drops some parts of some trash, as the collector does.
func (s *stream) collect() {
	rows, err := s.view().Trash(1, 0, 5)
	if err != nil {
		s.t.Fatal(err)
	}
	c := new(metadata.DropTrash)
	for i := range rows {
		t := &rows[i]
		parts, err := s.view().TrashParts(1, t, 3)
		if err != nil {
			s.t.Fatal(err)
		}
		rest, err := s.view().TrashParts(1, t, 4)
		if err != nil {
			s.t.Fatal(err)
		}
		ref := metadata.TrashRef{Order: t.Order, Bucket: t.Bucket, List: t.List, Done: len(rest) == len(parts)}
		for _, p := range parts {
			ref.Parts = append(ref.Parts, metadata.PartRef{Number: p.Number, ID: p.ID})
		}
		c.Rows = append(c.Rows, ref)
	}
	s.do(&metadata.Command{Kind: metadata.KindDropTrash, DropTrash: c})
}

func TestBatchesDoNotMatter(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		s := newStream(t, seed)
		for range 1500 {
			s.step()
		}
		want := dump(t, s.db)
		if got := dump(t, replayed(t, s.log, seed)); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: batches of several commands give another state", seed)
		}
	}
}

// replayed applies a log in batches of random size. Now and then it loses a
// batch, as a crash does, or applies again what is there already.
func replayed(t *testing.T, log []logged, seed uint64) *pebble.DB {
	db := openDB(t)
	m := state.New(db)
	r := rand.New(rand.NewPCG(seed, 2))
	for at := 0; at < len(log); {
		n := min(1+r.IntN(40), len(log)-at)
		from := max(0, at-r.IntN(10))
		b := m.NewBatch()
		for i, e := range log[from : at+n] {
			res, err := b.Apply(1, e.position, e.cmd)
			if err != nil {
				t.Fatal(err)
			}
			if from+i >= at && !bytes.Equal(res.AppendTo(nil), e.res.AppendTo(nil)) {
				t.Fatalf("position %d: result %+v, was %+v", e.position, res, e.res)
			}
		}
		switch r.IntN(5) {
		case 0:
			b.Discard()
			continue
		case 1:
			m = state.New(db) // a new process goes on; the batch is still good
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		at += n
	}
	return db
}

func TestCountersAgreeWithRows(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		s := newStream(t, 100+seed)
		for i := range 1500 {
			s.step()
			if i%50 == 0 {
				s.recount()
			}
		}
		s.recount()
		s.drain()
	}
}

// recount compares the counters with what the rows say.
func (s *stream) recount() {
	s.t.Helper()
	var want metadata.Usage
	list, err := s.view().List(&metadata.ListQuery{Bucket: ref, Limit: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, k := range list.Keys {
		want.Objects++
		want.Versions++
		want.Bytes += k.Version.Bytes
		want.StoredBytes += k.Version.StoredBytes
	}
	uploads, err := s.view().Uploads(&metadata.UploadsQuery{Bucket: ref, Limit: 1000})
	if err != nil || uploads.Truncated {
		s.t.Fatal(err, uploads.Truncated)
	}
	for _, u := range uploads.Uploads {
		want.Uploads++
		parts, err := s.view().Parts(ref, u.ID, 0, 100)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, p := range parts {
			want.UploadBytes += p.SealedBytes
		}
	}
	got, err := s.view().Usage(ref)
	if err != nil || got != want {
		s.t.Fatalf("usage is %+v, %v; the rows say %+v", got, err, want)
	}
	head, err := s.view().Head(1)
	if err != nil {
		s.t.Fatal(err)
	}
	if n := s.inlineBytes(); head.InlineBytes != n {
		s.t.Fatalf("inline bytes are %d, the rows say %d", head.InlineBytes, n)
	}
}

func (s *stream) inlineBytes() (sum int64) {
	lower := append(binary.BigEndian.AppendUint32(nil, 1), 0x2b)
	upper := append(binary.BigEndian.AppendUint32(nil, 1), 0x2c)
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		s.t.Fatal(err)
	}
	for iter.First(); iter.Valid(); iter.Next() {
		sum += int64(len(iter.Value()) - 1)
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		s.t.Fatal(err)
	}
	return sum
}

// drain deletes everything and collects it: nothing of objects may be left.
func (s *stream) drain() {
	d := &metadata.DeleteVersions{Bucket: ref.ID}
	for i := range 12 {
		d.Keys = append(d.Keys, metadata.DeleteKey{Key: fmt.Sprintf("k/%d", i)})
	}
	s.do1(&metadata.Command{Kind: metadata.KindDeleteVersions, Delete: d})
	for {
		n := 0
		s.upload(func(u *metadata.Upload) {
			n++
			s.do1(&metadata.Command{Kind: metadata.KindAbortUpload, Abort: &metadata.AbortUpload{Bucket: ref.ID, Key: u.Key, Upload: u.ID}})
		})
		if n == 0 {
			break
		}
	}
	for {
		rows, err := s.view().Trash(1, 0, 1)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(rows) == 0 {
			break
		}
		s.collect()
	}
	if res := s.do1(&metadata.Command{Kind: metadata.KindCloseBucket, Settle: &metadata.Settings{Bucket: ref.ID}}); res.Rejected != nil {
		s.t.Fatalf("close: %v", res.Rejected)
	}
	s.do1(&metadata.Command{Kind: metadata.KindPurgeBucket, Settle: &metadata.Settings{Bucket: ref.ID}})
	s.do1(&metadata.Command{Kind: metadata.KindFence, Fence: &metadata.Fence{Floor: s.epoch + 1}})
	s.stamp += 8 * 24 * 3600 * 1_000_000
	for range 1000 {
		s.do1(&metadata.Command{Kind: metadata.KindClock, Clock: &metadata.Clock{}})
	}
	if got, want := s.rows(1), "0x01: 1\n0x02: 1\n"; got != want {
		s.t.Errorf("rows that are left:\n%s", got)
	}
}

// do1 applies a command of no request, so that no result is stored.
func (s *stream) do1(c *metadata.Command) *metadata.Result {
	c.Version, c.Group, c.Stamp, c.Settings, c.Epoch = metadata.CommandVersion, 1, s.stamp, 1, 0
	return s.apply(c)
}

func TestReplayOfAPositionDoesNothing(t *testing.T) {
	t.Parallel()
	s := newStream(t, 9)
	for range 300 {
		s.step()
	}
	want := dump(t, s.db)
	m := state.New(s.db)
	for _, e := range s.log {
		b := m.NewBatch()
		if _, err := b.Apply(1, e.position, e.cmd); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(dump(t, s.db), want) {
		t.Error("replaying the log changed the state")
	}
}

func TestUnknownCommandsStopTheReplica(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	m := state.New(db)
	for _, c := range []*metadata.Command{
		{Kind: 9999, Version: metadata.CommandVersion},
		{Kind: metadata.KindClock, Version: metadata.CommandVersion + 1, Clock: &metadata.Clock{}},
	} {
		b := m.NewBatch()
		if _, err := b.Apply(1, 1, c); !errors.Is(err, metadata.ErrUnknownKind) {
			t.Errorf("Apply(%+v) = %v, want %v", c, err, metadata.ErrUnknownKind)
		}
		if err := b.Commit(pebble.NoSync); err == nil {
			t.Error("the batch could be committed all the same")
		}
	}
	if d := dump(t, db); len(d) != 0 {
		t.Errorf("rows were written:\n%s", d)
	}
}

func TestCommandsOfAnotherGroupAreRejected(t *testing.T) {
	t.Parallel()
	s := newStream(t, 1)
	for _, c := range []*metadata.Command{
		{Kind: metadata.KindClock},
		{Kind: metadata.KindPutAccount, Group: 1, Account: &metadata.Account{ID: metadata.AccountID{1}}},
		{Kind: metadata.KindOpenBucket, Settle: &metadata.Settings{Bucket: ref.ID}},
	} {
		if res := s.apply(c); res.Rejected != metadata.ErrInvalidCommand {
			t.Errorf("%+v: %v, want %v", c, res.Rejected, metadata.ErrInvalidCommand)
		}
	}
}
