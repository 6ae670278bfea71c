package backup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/backup"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
	"github.com/ruche-storage/ruche/metadata/topology"
)

var rewrite = flag.Bool("rewrite", false, "write the golden file anew")

var (
	start   = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	cluster = [16]byte{0xc1}
)

func now() time.Time { return start }

// source is a reproducible source of random bytes.
func source(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

func ring(t testing.TB, seed byte) *keyring.Keyring {
	t.Helper()
	k, _, err := keyring.Create(keyring.Options{
		Cluster: cluster, Random: source(seed), Now: start, KDF: keyring.KDF{Time: 1, MemoryKiB: 8, Threads: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func options(fs vfs.FS) replica.Options {
	return replica.Options{FS: fs, Now: now, ReserveBytes: -1, CacheBytes: 1 << 20}
}

func open(t testing.TB, fs vfs.FS, dir string) *replica.Local {
	t.Helper()
	l, err := replica.Open(dir, options(fs))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func commit(t testing.TB, l replica.Engine, c *metadata.Command) {
	t.Helper()
	c.Version = metadata.CommandVersion
	if _, err := l.Commit(context.Background(), c); err != nil {
		t.Error(err)
	}
}

func bucket(group uint32) metadata.BucketRef {
	return metadata.BucketRef{Group: group, ID: metadata.BucketID{0xb, byte(group)}}
}

// prepare opens a bucket in some groups, so that objects can be put into them.
func prepare(t testing.TB, l replica.Engine, groups ...uint32) {
	t.Helper()
	commit(t, l, &metadata.Command{Kind: metadata.KindPutAccount, Account: &metadata.Account{ID: metadata.AccountID{1}, Name: "root"}})
	for _, g := range groups {
		commit(t, l, &metadata.Command{Kind: metadata.KindOpenBucket, Group: g, Settle: &metadata.Settings{Bucket: bucket(g).ID, Name: fmt.Sprint("bucket", g), Epoch: 1}})
	}
}

// put stores an inline object.
func put(t testing.TB, l replica.Engine, group uint32, key, body string) {
	t.Helper()
	v := metadata.Version{Null: true, Bytes: int64(len(body)), ETag: "x"}
	id := metadata.RequestID([]byte(fmt.Sprintf("%3d%13s", group, key)))
	v.Part = &metadata.Part{Number: 1, ID: metadata.PartID(id), Bytes: v.Bytes, SealedBytes: v.Bytes, Body: metadata.BodyInline}
	commit(t, l, &metadata.Command{Kind: metadata.KindCommitVersion, Group: group, Settings: 1, Request: id,
		CommitVersion: &metadata.CommitVersion{Bucket: bucket(group).ID, Key: key, Version: v, Inline: []byte(body)}})
}

func body(t testing.TB, l *replica.Local, group uint32, key string) string {
	t.Helper()
	o, err := l.Open(context.Background(), bucket(group), key, "")
	if errors.Is(err, metadata.ErrNoSuchKey) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(o.Inline)
}

// dump returns all rows of a store but those of what a restoration changes.
func dump(t testing.TB, l replica.Engine) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := l.Whole(t.Context(), func(_ context.Context, it *pebble.Iterator) error {
		for ok := it.First(); ok; ok = it.Next() {
			group, table := binary.BigEndian.Uint32(it.Key()), it.Key()[4]
			if table == 0x01 || table == 0x04 || table == 0x05 || table == 0x06 || group == metadata.RootGroup && (table == 0x15 || table == 0x16 || table == 0x2f) {
				continue
			}
			all[string(it.Key())] = string(it.Value())
		}
		return it.Error()
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func write(t testing.TB, l replica.Engine, keys *keyring.Keyring) ([]byte, backup.Totals) {
	t.Helper()
	var b bytes.Buffer
	_, totals, err := backup.Write(t.Context(), &b, l, backup.Options{Cluster: cluster, Now: now, Random: source(7), Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), totals
}

func restoring(fs vfs.FS, keys *keyring.Keyring) backup.RestoreOptions {
	return backup.RestoreOptions{FS: fs, Dir: "state/meta", Keys: keys, Now: now, Random: source(8)}
}

// parent makes the directory that a store lies in.
func parent(t testing.TB, fs vfs.FS) {
	t.Helper()
	if err := fs.MkdirAll("state", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"state", ""} {
		d, err := fs.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// absent checks that a failed restoration has left nothing.
func absent(t testing.TB, fs vfs.FS) {
	t.Helper()
	names, err := fs.List("state")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) > 0 {
		t.Errorf("left are %v", names)
	}
}

// TestRoundTrip restores a store with objects in several groups, sealed and
// not, onto plain and encrypted files.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	l := open(t, vfs.NewMem(), "meta")
	prepare(t, l, 1, 5, 16)
	for i := range 300 {
		put(t, l, []uint32{1, 5, 16}[i%3], fmt.Sprintf("key%d", i), strings.Repeat(fmt.Sprint(i), 50))
	}
	commit(t, l, &metadata.Command{Kind: metadata.KindPutIncarnation, Incarnation: &metadata.Incarnation{Number: 4, Collection: true}})
	want := dump(t, l)
	for _, c := range []struct {
		name    string
		keys    *keyring.Keyring
		encrypt bool
		least   uint64
	}{
		{"readable", nil, false, 0},
		{"sealed", ring(t, 1), false, 3},
		{"sealed, onto encrypted files", ring(t, 1), true, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, totals := write(t, l, c.keys)
			if bytes.Contains(b, []byte("bucket16")) != (c.keys == nil) {
				t.Errorf("a name shows in the backup, or does not: sealed is %v", c.keys != nil)
			}
			info, again, err := backup.Verify(t.Context(), bytes.NewReader(b), c.keys)
			if err != nil || again != totals || totals.Groups != metadata.DataGroups+1 || totals.Rows < uint64(len(want)) {
				t.Errorf("Verify = %+v, %v; want %+v", again, err, totals)
			}
			mem := vfs.NewMem()
			parent(t, mem)
			var fs vfs.FS = mem
			if c.encrypt {
				if fs, err = cryptfs.New(mem, cryptfs.Options{Key: cryptfs.Key{1}, Store: topology.DriveID{2}, Random: source(2)}); err != nil {
					t.Fatal(err)
				}
			}
			o := restoring(fs, c.keys)
			o.Cluster, o.Incarnation = cluster, c.least
			res, err := backup.Restore(t.Context(), iotest.OneByteReader(bytes.NewReader(b)), o)
			if err != nil {
				t.Fatal(err)
			}
			if res.Totals != totals || res.Info.ID != info.ID || res.Incarnation != max(5, c.least) || !res.Info.Created.Equal(start) {
				t.Errorf("Restore = %+v", res)
			}
			if names, _ := mem.List("state"); len(names) != 1 {
				t.Errorf("beside the store lie %v", names)
			}
			m := open(t, fs, "state/meta")
			got := dump(t, m)
			for k, v := range want {
				if got[k] != v {
					t.Fatalf("row %x is %q, want %q", k, got[k], v)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d rows, want %d", len(got), len(want))
			}
			if i, err := m.Incarnation(t.Context()); err != nil || i.Number != max(5, c.least) || i.Collection {
				t.Errorf("incarnation %+v, %v", i, err)
			}
			put(t, m, 5, "later", "y")
			if got := body(t, m, 5, "later") + body(t, m, 1, "key0"); got != "y"+strings.Repeat("0", 50) {
				t.Errorf("bodies are %q", got)
			}
		})
	}
}

// TestWhatCameSinceIsVoid restores a backup and checks which orders count.
func TestWhatCameSinceIsVoid(t *testing.T) {
	t.Parallel()
	l := open(t, vfs.NewMem(), "meta")
	prepare(t, l, 1, 5)
	put(t, l, 5, "before", "x")
	for g := range uint32(metadata.DataGroups + 1) {
		commit(t, l, &metadata.Command{Kind: metadata.KindClusters, Group: g, Clusters: &metadata.ClusterVersion{Version: metadata.ManifestVersion}})
		commit(t, l, &metadata.Command{Kind: metadata.KindFence, Group: g, Fence: &metadata.Fence{Floor: 7, Living: []uint64{7}}})
	}
	order := func(m *replica.Local, group uint32, key string) uint64 {
		t.Helper()
		o, err := m.Open(t.Context(), bucket(group), key, "")
		if err != nil {
			t.Fatal(err)
		}
		return o.Version.Order
	}
	b, _ := write(t, l, nil)
	put(t, l, 1, "since", "x")
	put(t, l, 5, "since", "x")
	fs := vfs.NewMem()
	parent(t, fs)
	o := restoring(fs, nil)
	o.Now, o.Epoch = func() time.Time { return now().Add(time.Hour) }, 9
	if _, err := backup.Restore(t.Context(), bytes.NewReader(b), o); err != nil {
		t.Fatal(err)
	}
	at := options(fs)
	at.Now = o.Now
	m, err := replica.Open("state/meta", at)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	put(t, m, 5, "later", "x")
	i, err := m.Incarnation(t.Context())
	if err != nil || i.Number != 1 || i.Collection || i.LastEpoch() != 9 {
		t.Errorf("incarnation %+v, %v", i, err)
	}
	for _, c := range []struct {
		group uint32
		order uint64
		void  bool
	}{{5, order(m, 5, "before"), false}, {5, order(l, 5, "since"), true}, {1, order(l, 1, "since"), true}, {5, order(m, 5, "later"), false}} {
		if i.Voided(c.group, c.order) != c.void {
			t.Errorf("order %d of group %d is not void, or is: want %v (%+v)", c.order, c.group, c.void, i.Void)
		}
	}
}

// TestOnePointInTime backs a store up while a writer writes to one group and
// then to another: the backup never has the second of a pair without the first,
// it has all that was acknowledged before, and the writer goes on.
func TestOnePointInTime(t *testing.T) {
	t.Parallel()
	l := open(t, vfs.NewMem(), "meta")
	prepare(t, l, 2, 14)
	var done atomic.Int64
	stop := make(chan struct{})
	var g sync.WaitGroup
	g.Go(func() {
		for i := int64(1); ; i++ {
			put(t, l, 14, fmt.Sprint("n", i), "x")
			put(t, l, 2, fmt.Sprint("n", i), "x")
			done.Store(i)
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for round := range 3 {
		before := done.Load()
		// The writer must come further while the backup is half written.
		frames := 0
		waiting := writerFunc(func(b []byte) (int, error) {
			if frames++; frames%16 != 0 {
				return len(b), nil
			}
			for at := done.Load(); done.Load() < at+2; {
				runtime.Gosched()
			}
			return len(b), nil
		})
		var b bytes.Buffer
		if _, _, err := backup.Write(t.Context(), io.MultiWriter(&b, waiting), l, backup.Options{Cluster: cluster, Now: now, Random: source(byte(round))}); err != nil {
			t.Fatal(err)
		}
		fs := vfs.NewMem()
		parent(t, fs)
		if _, err := backup.Restore(t.Context(), &b, restoring(fs, nil)); err != nil {
			t.Fatal(err)
		}
		m, err := replica.Open("state/meta", options(fs))
		if err != nil {
			t.Fatal(err)
		}
		first, second := count(t, m, 14), count(t, m, 2)
		if second < before || first < second || first > second+1 {
			t.Errorf("the backup has %d and %d, %d pairs were acknowledged before", first, second, before)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	g.Wait()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func count(t *testing.T, l *replica.Local, group uint32) int64 {
	t.Helper()
	u, err := l.Usage(t.Context(), bucket(group))
	if err != nil {
		t.Fatal(err)
	}
	return u.Objects
}

// TestSeveralCopies restores the backup of a replicated engine as one copy.
func TestSeveralCopies(t *testing.T) {
	t.Parallel()
	var places []replica.Place
	for id := uint64(1); id <= 3; id++ {
		p := replica.Place{Dir: "meta", FS: vfs.NewMem()}
		o := replica.StoreOptions{Options: options(p.FS), Rand: source(byte(id))}
		if err := replica.CreateStore(p.Dir, commandlog.Identity{Cluster: cluster, Store: [16]byte{byte(id)}, Replica: id}, []uint64{1, 2, 3}, o); err != nil {
			t.Fatal(err)
		}
		places = append(places, p)
	}
	e, err := replica.OpenReplicated(places, replica.ReplicatedOptions{Tick: 10 * time.Millisecond, StoreOptions: replica.StoreOptions{Options: options(nil), Rand: source(4)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	prepare(t, e, 3, 9)
	commit(t, e, &metadata.Command{Kind: metadata.KindClusters, Clusters: &metadata.ClusterVersion{Version: metadata.LatestVersion}})
	commit(t, e, &metadata.Command{Kind: metadata.KindPutStores, Stores: &metadata.StoreTable{Version: 1, Stores: []metadata.Store{
		{Replica: 1, ID: [16]byte{1}, Role: metadata.StoreVoter}, {Replica: 2, ID: [16]byte{2}, Role: metadata.StoreVoter},
		{Replica: 3, ID: [16]byte{3}, Role: metadata.StoreVoter}, {Replica: 5, ID: [16]byte{5}, Role: metadata.StoreGone},
	}}})
	for i := range 50 {
		put(t, e, uint32(3+i%2*6), fmt.Sprint("key", i), fmt.Sprint("body", i))
	}
	b, _ := write(t, e, nil)
	fs := vfs.NewMem()
	parent(t, fs)
	res, err := backup.Restore(t.Context(), bytes.NewReader(b), restoring(fs, nil))
	if err != nil || res.NextReplica != 6 {
		t.Fatalf("Restore = %+v, %v", res, err)
	}
	l := open(t, fs, "state/meta")
	if stores, err := l.Stores(t.Context()); err != nil || stores.Version != 0 || len(stores.Stores) > 0 {
		t.Errorf("the restored store knows of %+v, %v", stores, err)
	}
	got, want := dump(t, l), dump(t, e)
	for k, v := range want {
		if got[k] != v {
			t.Fatalf("row %x is %q, want %q", k, got[k], v)
		}
	}
	if len(got) != len(want) || len(want) < 100 {
		t.Errorf("%d rows, want %d", len(got), len(want))
	}
	if logged(t, l, 3) {
		t.Error("the restored store has a place in a log")
	}
}

// logged reports whether a group's row of its place in a log is there.
func logged(t *testing.T, l *replica.Local, group uint32) (found bool) {
	t.Helper()
	err := l.Whole(t.Context(), func(_ context.Context, it *pebble.Iterator) error {
		key := append(binary.BigEndian.AppendUint32(nil, group), 0x06)
		found = it.SeekGE(key) && bytes.Equal(it.Key(), key)
		return it.Error()
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestWriteFails lets the output of a backup fail.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	l := open(t, vfs.NewMem(), "meta")
	prepare(t, l, 3)
	gone := errors.New("the client left")
	for n := range 60 {
		left := n
		w := writerFunc(func(b []byte) (int, error) {
			if left--; left < 0 {
				return 0, gone
			}
			return len(b), nil
		})
		_, _, err := backup.Write(t.Context(), w, l, backup.Options{Cluster: cluster, Now: now, Random: source(1)})
		if !errors.Is(err, gone) {
			t.Fatalf("after %d writes: Write = %v", n, err)
		}
	}
}

// TestGolden restores a backup that an earlier version has written.
func TestGolden(t *testing.T) {
	t.Parallel()
	keys, path := ring(t, 1), filepath.Join("testdata", "golden")
	if *rewrite {
		if err := os.WriteFile(path, small(t, keys), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewMem()
	parent(t, fs)
	if _, err := backup.Restore(t.Context(), bytes.NewReader(b), restoring(fs, keys)); err != nil {
		t.Fatal(err)
	}
	if got := body(t, open(t, fs, "state/meta"), 3, "a"); got != "hello" {
		t.Errorf("the object is %q", got)
	}
}

// FuzzVerify feeds files that may be anything.
func FuzzVerify(f *testing.F) {
	keys := ring(f, 1)
	f.Add(small(f, nil))
	f.Add(small(f, keys)[:400])
	f.Add([]byte("RUCHEMBK\x01\x00\x00\x00\xff\xff\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, totals, err := backup.Verify(t.Context(), bytes.NewReader(b), keys); err == nil && totals.Groups != metadata.DataGroups+1 {
			t.Errorf("taken with %+v", totals)
		}
	})
}
