package commandlog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
)

func id(b byte) (id [16]byte) {
	for i := range id {
		id[i] = b + byte(i)
	}
	return id
}

// TestGolden pins keys and values: every row of a log in which everything
// occurs.
func TestGolden(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	o := Options{FS: fs}
	conf := &pb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}}
	starts := []Start{{Group: 0, Index: 7, Term: 2, Conf: conf}, {Group: 16, Index: 300, Term: 5, Conf: conf}, {Group: 3, Conf: &pb.ConfState{}}}
	if err := Create("log", o, Identity{Cluster: id(0x10), Store: id(0x20), Replica: 0x0102030405060708}, starts); err != nil {
		t.Fatal(err)
	}
	l, err := Open("log", o)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(i, term uint64, k pb.EntryType, data string) *pb.Entry {
		return &pb.Entry{Index: &i, Term: &term, Type: k.Enum(), Data: []byte(data)}
	}
	for _, err := range []error{
		l.Append([]Write{
			{Group: 0, HardState: &pb.HardState{Term: new(uint64(3)), Vote: new(uint64(2)), Commit: new(uint64(9))}, Entries: []*pb.Entry{
				entry(8, 2, pb.EntryNormal, "one"), entry(9, 3, pb.EntryNormal, ""), entry(10, 3, pb.EntryConfChangeV2, "change")}},
			{Group: 16, Reset: &Mark{Index: 400, Term: 5, Conf: conf, Snapshot: id(0x30)}},
		}),
		l.Cut(0, 8),
		l.SetDamaged(16, Damage{Index: 401, Reason: "differs"}),
		l.Force(0x1122334455667788),
		l.Retire("forgot"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	datadriven.RunTest(t, "testdata/golden", func(*testing.T, *datadriven.TestData) string { return rows(t, l.db) })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("log", o); !errors.Is(err, ErrRetired) || !strings.Contains(fmt.Sprint(err), "forgot") {
		t.Errorf("Open of a retired store: %v", err)
	}
}

func rows(t *testing.T, db *pebble.DB) string {
	t.Helper()
	iter, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for iter.First(); iter.Valid(); iter.Next() {
		fmt.Fprintf(&out, "%x\n  %x\n", iter.Key(), iter.Value())
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// decode decodes a value by the kind of its row and encodes it again.
func decode(k kind, v []byte) ([]byte, error) {
	switch k {
	case kindHard:
		h, err := decodeHard(v)
		return h.encode(), err
	case kindStart:
		s, err := decodeStart(v)
		return s.encode(), err
	case kindConf:
		c, err := decodeConf(v)
		if err != nil {
			return nil, err
		}
		return encodeConf(c)
	case kindInstalling:
		i, err := decodeInstalling(v)
		return i.encode(), err
	case kindDamaged:
		d, err := decodeDamage(v)
		return d.encode(), err
	case kindEntry:
		e, h, err := decodeEntry(7, v)
		if err != nil {
			return nil, err
		}
		return appendEntry(nil, e, h), nil
	}
	i, err := decodeIdentity(v)
	return i.encode(), err
}

var kinds = []kind{0, kindHard, kindStart, kindConf, kindInstalling, kindDamaged, kindEntry}

func FuzzValues(f *testing.F) {
	f.Add(byte(0), Identity{Replica: 1}.encode())
	f.Add(byte(1), hard{1, 2, 3}.encode())
	f.Add(byte(2), start{index: 1, term: 2}.encode())
	f.Add(byte(3), []byte{version, 0x08, 0x01, 0x28, 0x00})
	f.Add(byte(4), Installing{Index: 1}.encode())
	f.Add(byte(5), Damage{Index: 1, Reason: "why"}.encode())
	f.Add(byte(6), appendEntry(nil, &pb.Entry{Term: new(uint64(3)), Data: []byte("x")}, hash{1}))
	f.Fuzz(func(t *testing.T, which byte, v []byte) {
		k := kinds[int(which)%len(kinds)]
		again, err := decode(k, v)
		if err != nil {
			return
		}
		if k == kindConf { // others may encode it in another order
			if twice, err := decode(k, again); err != nil || !bytes.Equal(twice, again) {
				t.Errorf("%x is decoded as %x, then as %x, %v", v, again, twice, err)
			}
			return
		}
		if !bytes.Equal(again, v) {
			t.Errorf("%x is decoded as %x", v, again)
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add(groupKey(16, kindStart))
	f.Add(entryKey(3, 1<<40))
	f.Fuzz(func(t *testing.T, key []byte) {
		group, k, index, err := parseKey(key)
		if err != nil {
			return
		}
		again := groupKey(group, k)
		if k == kindEntry {
			again = entryKey(group, index)
		}
		if !bytes.Equal(again, key) {
			t.Errorf("%x is read as %x", key, again)
		}
	})
}

func TestValuesOfOtherFormsAreRefused(t *testing.T) {
	t.Parallel()
	conf, err := encodeConf(&pb.ConfState{Voters: []uint64{1}})
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[kind][]byte{
		0: Identity{}.encode(), kindHard: hard{}.encode(), kindStart: start{}.encode(), kindConf: conf,
		kindInstalling: Installing{}.encode(), kindDamaged: Damage{}.encode(), kindEntry: appendEntry(nil, new(pb.Entry), hash{}),
	} {
		later := slices.Clone(v)
		later[0]++
		if _, err := decode(k, later); !errors.Is(err, ErrVersion) {
			t.Errorf("kind %d of a later version: %v", k, err)
		}
		for n := range v {
			if _, err := decode(k, v[:n]); err == nil && k != kindConf {
				t.Errorf("kind %d: the first %d of %d bytes were taken for all", k, n, len(v))
			}
		}
	}
}

// TestMissingRowsAreFound takes rows out of a log, or changes them, below
// Pebble's checksums.
func TestMissingRowsAreFound(t *testing.T) {
	t.Parallel()
	set := func(key, value []byte) func(*pebble.DB) error {
		return func(db *pebble.DB) error { return db.Set(key, value, pebble.Sync) }
	}
	drop := func(key []byte) func(*pebble.DB) error {
		return func(db *pebble.DB) error { return db.Delete(key, pebble.Sync) }
	}
	e := func(i, term uint64) *pb.Entry { return &pb.Entry{Index: &i, Term: &term, Data: []byte("x")} }
	for name, test := range map[string]struct {
		spoil func(*pebble.DB) error
		want  error
		at    uint64
	}{
		"nothing":                {func(*pebble.DB) error { return nil }, nil, 0},
		"identity":               {drop([]byte{keyIdentity}), ErrRot, 0},
		"promise":                {drop(groupKey(1, kindHard)), ErrRot, 0},
		"start":                  {drop(groupKey(1, kindStart)), ErrRot, 101},
		"configuration":          {drop(groupKey(1, kindConf)), ErrRot, 0},
		"first entry":            {drop(entryKey(1, 101)), ErrRot, 101},
		"entry in the middle":    {drop(entryKey(1, 103)), ErrRot, 103},
		"committed last entries": {func(db *pebble.DB) error { return db.DeleteRange(entryKey(1, 104), entryKey(1, 200), pebble.Sync) }, ErrShort, 104},
		"uncommitted last entry": {drop(entryKey(1, 105)), nil, 0},
		"another entry":          {set(entryKey(1, 103), appendEntry(nil, e(103, 2), hash{1})), ErrRot, 103},
		"another start":          {set(groupKey(1, kindStart), start{100, 2, hash{1}}.encode()), ErrRot, 101},
		"a commit before start":  {set(groupKey(1, kindHard), hard{3, 0, 99}.encode()), ErrRot, 99},
		"a low term":             {set(groupKey(1, kindHard), hard{1, 0, 104}.encode()), ErrRot, 105},
		"half an entry":          {set(entryKey(1, 103), []byte{1, 2, 3}), ErrRot, 103},
		"a later entry version":  {set(entryKey(1, 103), []byte{2, 2, 3}), ErrVersion, 0},
		"a later kind of row":    {set(groupKey(1, 0x0f), []byte{1}), ErrVersion, 0},
		"a later row of stores":  {set([]byte{0x04}, []byte{1}), ErrVersion, 0},
		"a strange key":          {set([]byte{keyGroups, 1}, []byte{1}), ErrRot, 0},
		"a strange key behind":   {set([]byte{0x77}, []byte{1}), ErrRot, 0},
	} {
		o := Options{FS: vfs.NewMem()}
		if err := Create("log", o, Identity{id(1), id(2), 3}, []Start{{Group: 1, Index: 100, Term: 2, Conf: &pb.ConfState{Voters: []uint64{3}}}}); err != nil {
			t.Fatal(err)
		}
		l, err := Open("log", o)
		if err != nil {
			t.Fatal(err)
		}
		w := Write{Group: 1, Entries: []*pb.Entry{e(101, 2), e(102, 2), e(103, 2), e(104, 2), e(105, 2)},
			HardState: &pb.HardState{Term: new(uint64(2)), Commit: new(uint64(104))}}
		if err := errors.Join(l.Append([]Write{w}), test.spoil(l.db), l.Close()); err != nil {
			t.Fatal(err)
		}
		l, err = Open("log", o)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: Open = %v, want %v", name, err, test.want)
		}
		if p, ok := errors.AsType[*PositionError](err); ok && (p.Group != 1 || p.At != test.at) || !ok && test.at != 0 {
			t.Errorf("%s: found at another place than %d: %v", name, test.at, err)
		}
		if err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
