package state_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// TestBuildsThatKnowLess runs a program of version 1 beside the present one on
// the same commands.
func TestBuildsThatKnowLess(t *testing.T) {
	t.Parallel()
	old, present := openDB(t), openDB(t)
	oldMachine, machine := state.NewKnowing(old, 1), state.New(present)
	position := uint64(0)
	apply := func(m *state.Machine, c metadata.Command) (*metadata.Result, error) {
		b := m.NewBatch()
		res, err := b.Apply(1, position, &c)
		if err != nil {
			b.Discard()
			return nil, err
		}
		return res, b.Commit(pebble.NoSync)
	}
	commands := []metadata.Command{
		{Kind: metadata.KindClock, Clock: &metadata.Clock{ElapsedMicros: 5}},
		{Kind: metadata.KindClusters, Clusters: &metadata.ClusterVersion{Version: 1}},
		{Kind: metadata.KindOpenBucket, Settle: &metadata.Settings{Bucket: ref.ID, Name: "b"}},
	}
	for _, c := range commands {
		c.Version, c.Group = metadata.CommandVersion, 1
		position++
		for _, m := range []*state.Machine{oldMachine, machine} {
			if res, err := apply(m, c); err != nil || res.Rejected != nil {
				t.Fatalf("%d: %v, %v", c.Kind, res, err)
			}
		}
	}
	if !bytes.Equal(dump(t, old), dump(t, present)) {
		t.Error("what both know gives two states")
	}
	// The present program rejects what the group is too old for; the old one
	// does not know it, and stops. So it must not be proposed.
	later := metadata.Command{Kind: metadata.KindManifested, Version: metadata.CommandVersion, Group: 1, Manifested: &metadata.Manifested{}}
	position++
	if res, err := apply(machine, later); err != nil || res.Rejected != metadata.ErrVersionTooLow {
		t.Errorf("a later kind: %v, %v", res, err)
	}
	if _, err := apply(oldMachine, later); !errors.Is(err, metadata.ErrUnknownKind) {
		t.Errorf("a later kind in an old program: %v", err)
	}
	raise := metadata.Command{Kind: metadata.KindClusters, Version: metadata.CommandVersion, Group: 1, Clusters: &metadata.ClusterVersion{Version: 2}}
	if _, err := apply(oldMachine, raise); !errors.Is(err, metadata.ErrUnknownKind) {
		t.Errorf("a later version in an old program: %v", err)
	}
	position++
	if res, err := apply(machine, raise); err != nil || res.Rejected != nil {
		t.Errorf("raise: %v, %v", res, err)
	}
	position++
	raise.Clusters = &metadata.ClusterVersion{Version: metadata.LatestVersion + 1}
	if _, err := apply(machine, raise); !errors.Is(err, metadata.ErrUnknownKind) {
		t.Errorf("a version of the future: %v", err)
	}
	// What was raised is not opened by an old program.
	if _, err := state.NewKnowing(present, 1).NewBatch().Position(1); !errors.Is(err, metadata.ErrUnknownKind) {
		t.Errorf("an old program on a raised group: %v", err)
	}
}

func TestRaftRowIsNoPartOfTheState(t *testing.T) {
	t.Parallel()
	s := newStream(t, 5)
	for range 200 {
		s.step()
	}
	before, err := state.SpanHash(t.Context(), s.db, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, found, err := s.view().Raft(1); found || err != nil {
		t.Errorf("a raft row before the first: %v", err)
	}
	want := metadata.RaftPosition{Index: 77, Term: 3, Conf: []byte("conf")}
	b := s.machine.NewBatch()
	if err := errors.Join(b.SetRaft(1, &want), b.Commit(pebble.NoSync)); err != nil {
		t.Fatal(err)
	}
	got, found, err := s.view().Raft(1)
	if err != nil || !found || got.Index != want.Index || got.Term != want.Term || !bytes.Equal(got.Conf, want.Conf) {
		t.Errorf("the raft row is %+v, %v, %v", got, found, err)
	}
	after, err := state.SpanHash(t.Context(), s.db, 1)
	if err != nil || after != before {
		t.Errorf("the hash has changed with the raft row, %v", err)
	}
	s.step()
	s.do(&metadata.Command{Kind: metadata.KindClock, Clock: &metadata.Clock{}})
	if after, err = state.SpanHash(t.Context(), s.db, 1); err != nil || after == before {
		t.Errorf("the hash has not changed with a command, %v", err)
	}
}

// TestSpanHashAgreesWithAllRows compares it with the naive hash, and with that
// of a store in which every single row differs.
func TestSpanHashAgreesWithAllRows(t *testing.T) {
	t.Parallel()
	s := newStream(t, 6)
	for range 150 {
		s.step()
	}
	naive := sha256.New()
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{0, 0, 0, 1}, UpperBound: []byte{0, 0, 0, 2}})
	if err != nil {
		t.Fatal(err)
	}
	var keys [][]byte
	for iter.First(); iter.Valid(); iter.Next() {
		fmt.Fprintf(naive, "%s%s%s%s", be64(len(iter.Key())), be64(len(iter.Value())), iter.Key(), iter.Value())
		keys = append(keys, bytes.Clone(iter.Key()))
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := state.SpanHash(t.Context(), s.db, 1)
	if err != nil || got != metadata.Sum(naive.Sum(nil)) {
		t.Fatalf("hash %x, %v", got, err)
	}
	for _, k := range keys {
		b := s.db.NewIndexedBatch()
		if err := b.Set(k, []byte("other"), nil); err != nil {
			t.Fatal(err)
		}
		if other, err := state.SpanHash(t.Context(), b, 1); err != nil || other == got {
			t.Errorf("row %x changed and the hash did not, %v", k, err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := s.db.Set([]byte{0, 0, 0, 3, 0x22}, make([]byte, 2<<20), pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if _, err := state.SpanHash(ended, s.db, 3); err == nil {
		t.Error("SpanHash does not end with its context")
	}
}

func be64(n int) []byte {
	return []byte{0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

// spread runs the same commands with all buckets in one group, and with every
// bucket in a group of its own or shared.
type spread struct {
	t       *testing.T
	r       *rand.Rand
	stamp   uint64
	n       int
	one     *script
	many    *script
	uploads map[int][]upload // of a bucket
}

type upload struct {
	id    metadata.UploadID
	key   string
	parts []metadata.Part
}

const spreadBuckets = 24

func spreadID(bucket int) metadata.BucketID { return id16(fmt.Sprint("bucket", bucket)) }

func spreadGroup(bucket int) uint32 { return uint32(1 + bucket%metadata.DataGroups) }

// do applies a command of a bucket to both, in their groups.
func (s *spread) do(bucket int, c metadata.Command) {
	s.t.Helper()
	s.n++
	s.stamp += 1000 // more than a command uses, so that orders do not depend on the group
	c.Stamp, c.Settings, c.Request = s.stamp, 1, id16(fmt.Sprint("request", s.n))
	if c.Kind != metadata.KindClusters && c.Kind != metadata.KindFence {
		c.Epoch = 1
	}
	inOne, inMany := c, c
	inOne.Group, inMany.Group = 1, spreadGroup(bucket)
	a, b := s.one.apply(&inOne), s.many.apply(&inMany)
	if !bytes.Equal(a.AppendTo(nil), b.AppendTo(nil)) {
		s.t.Fatalf("command %d of kind %d: %+v in one group, %+v in many", s.n, c.Kind, a, b)
	}
}

func (s *spread) part(number uint32) (metadata.Part, []metadata.Chunk, []byte) {
	p := metadata.Part{Number: number, ID: id16(fmt.Sprint("part", s.n)), Bytes: int64(1 + s.r.IntN(100))}
	p.SealedBytes = p.Bytes
	if s.r.IntN(2) == 0 {
		p.Body = metadata.BodyInline
		return p, nil, bytes.Repeat([]byte{byte(s.n)}, int(p.Bytes))
	}
	p.Body = metadata.BodyChunks
	return p, []metadata.Chunk{{ID: id16(fmt.Sprint("chunk", s.n)), Bytes: p.SealedBytes}}, nil
}

func (s *spread) step() {
	bucket := s.r.IntN(spreadBuckets)
	id, key := spreadID(bucket), fmt.Sprintf("k/%d", s.r.IntN(5))
	switch s.r.IntN(10) {
	case 0, 1, 2:
		p, chunks, inline := s.part(1)
		s.do(bucket, metadata.Command{Kind: metadata.KindCommitVersion, CommitVersion: &metadata.CommitVersion{
			Bucket: id, Key: key, Version: metadata.Version{Null: true, Bytes: p.Bytes, Part: &p}, Chunks: chunks, Inline: inline,
			Conditions: metadata.WriteConditions{IfNoneMatch: s.r.IntN(4) == 0}}})
	case 3:
		s.do(bucket, metadata.Command{Kind: metadata.KindDeleteVersions, Delete: &metadata.DeleteVersions{Bucket: id, Keys: []metadata.DeleteKey{{Key: key}, {Key: "k/0"}}}})
	case 4:
		u := upload{id: id16(fmt.Sprint("upload", s.n)), key: key}
		s.uploads[bucket] = append(s.uploads[bucket], u)
		s.do(bucket, metadata.Command{Kind: metadata.KindCreateUpload, CreateUpload: &metadata.CreateUpload{Bucket: id, Upload: metadata.Upload{ID: u.id, Key: key}}})
	case 5, 6, 7:
		s.upload(bucket, false)
	case 8:
		s.upload(bucket, true)
	case 9:
		s.collect(bucket)
	}
}

// upload adds a part to an upload of a bucket, or ends one.
func (s *spread) upload(bucket int, end bool) {
	us := s.uploads[bucket]
	if len(us) == 0 {
		return
	}
	u := &us[s.r.IntN(len(us))]
	if !end {
		p, chunks, inline := s.part(uint32(len(u.parts) + 1))
		u.parts = append(u.parts, p)
		s.do(bucket, metadata.Command{Kind: metadata.KindCommitPart, CommitPart: &metadata.CommitPart{
			Bucket: spreadID(bucket), Key: u.key, Upload: u.id, Part: p, Chunks: chunks, Inline: inline}})
		return
	}
	if s.r.IntN(3) == 0 || len(u.parts) == 0 {
		s.do(bucket, metadata.Command{Kind: metadata.KindAbortUpload, Abort: &metadata.AbortUpload{Bucket: spreadID(bucket), Key: u.key, Upload: u.id}})
		return
	}
	c := &metadata.Complete{Bucket: spreadID(bucket), Key: u.key, Upload: u.id, Version: metadata.Version{Null: true}}
	c.Version.List = &metadata.PartList{ID: u.id, Parts: uint32(len(u.parts)), Pages: []metadata.PartPage{{FirstNumber: 1}}}
	for _, p := range u.parts {
		c.Version.Bytes += p.Bytes
		c.Parts = append(c.Parts, metadata.PartRef{Number: p.Number, ID: p.ID})
	}
	s.do(bucket, metadata.Command{Kind: metadata.KindComplete, Complete: c})
}

// collect drops the oldest trash of a bucket.
func (s *spread) collect(bucket int) {
	rows, err := s.many.view().Trash(spreadGroup(bucket), 0, 100)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range rows {
		t := &rows[i]
		if t.Bucket != spreadID(bucket) {
			continue
		}
		parts, err := s.many.view().TrashParts(spreadGroup(bucket), t, 100)
		if err != nil {
			s.t.Fatal(err)
		}
		r := metadata.TrashRef{Order: t.Order, Bucket: t.Bucket, List: t.List, Done: true}
		for _, p := range parts {
			r.Parts = append(r.Parts, metadata.PartRef{Number: p.Number, ID: p.ID})
		}
		s.do(bucket, metadata.Command{Kind: metadata.KindDropTrash, DropTrash: &metadata.DropTrash{Rows: []metadata.TrashRef{r}}})
		return
	}
}

// byBucket returns all rows without their group, but those that say something
// of the group as a whole.
func byBucket(t *testing.T, db *pebble.DB) map[string]string {
	t.Helper()
	iter, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string)
	for iter.First(); iter.Valid(); iter.Next() {
		key := string(iter.Key()[4:])
		switch key[0] {
		case 0x01, 0x02, 0x05, 0x07: // head, fence, expiry, command version
			continue
		}
		if _, twice := rows[key]; twice {
			t.Errorf("two groups have row %x", key)
		}
		rows[key] = string(iter.Value())
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestGroupsDoNotMatter carries out the same commands with all buckets in one
// group and with the buckets spread over all groups: every row of a bucket is
// the same, but for the group in its key.
func TestGroupsDoNotMatter(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		s := &spread{t: t, r: rand.New(rand.NewPCG(seed, 8)), stamp: 1_000_000, uploads: make(map[int][]upload)}
		for _, to := range []**script{&s.one, &s.many} {
			db := openDB(t)
			*to = &script{t: t, db: db, machine: state.New(db), names: make(map[[16]byte]string)}
			for g := range uint32(metadata.DataGroups) {
				(*to).apply(&metadata.Command{Kind: metadata.KindFence, Group: g + 1, Stamp: 1, Fence: &metadata.Fence{Floor: 1, Living: []uint64{1}}})
				(*to).apply(&metadata.Command{Kind: metadata.KindClusters, Group: g + 1, Stamp: 1, Clusters: &metadata.ClusterVersion{Version: 2}})
			}
		}
		for b := range spreadBuckets {
			s.do(b, metadata.Command{Kind: metadata.KindOpenBucket, Settle: &metadata.Settings{Bucket: spreadID(b), Name: fmt.Sprint(b)}})
		}
		for range 1500 {
			s.step()
		}
		one, many := byBucket(t, s.one.db), byBucket(t, s.many.db)
		for k, v := range one {
			if many[k] != v {
				t.Fatalf("seed %d: row %x is %x in one group, %x in many", seed, k, v, many[k])
			}
		}
		if len(one) != len(many) || len(one) < 1000 {
			t.Errorf("seed %d: %d rows in one group, %d in many", seed, len(one), len(many))
		}
	}
}
