package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/placement"
	"github.com/ruche-storage/ruche/metadata/topology"
)

func flip(p []byte) { p[len(p)/2] ^= 1 }

// damageKinds are what may happen to a shard that is read.
var damageKinds = map[string]fault{
	"flipped":     {spoil: flip},
	"zeroed":      {spoil: func(p []byte) { clear(p) }},
	"not found":   {err: metadata.ErrShardNotFound},
	"bad header":  {err: metadata.ErrCorrupt},
	"fenced":      {err: metadata.ErrFenced},
	"unknown":     {err: errors.New("input/output error")},
	"bad sum":     {spoil: func(p []byte) { p[len(p)-1] ^= 0x80 }},
	"other place": {spoil: func(p []byte) { copy(p, bytes.Clone(p[1:])) }},
}

// TestDamage damages m shards of a chunk, chosen at random, and then one more.
func TestDamage(t *testing.T) {
	t.Parallel()
	for _, scheme := range []metadata.Scheme{metadata.NewScheme(4, 2), metadata.NewScheme(2, 1), metadata.NewScheme(3, 2)} {
		w := newWorld(t, setup{scheme: scheme})
		r := mathrand.New(mathrand.NewPCG(uint64(scheme.Data), 1))
		for _, n := range []int{17_000, 65_520, 300_000, 1_500_000} {
			body := payload(n, 6)
			w.mustPut("object", body)
			for kind, damage := range damageKinds {
				for _, count := range []int{int(scheme.Parity), int(scheme.Parity) + 1} {
					bad := r.Perm(scheme.Total())[:count]
					w.shards.set(func(op string, _ topology.DriveID, ref metadata.ShardRef) fault {
						if op == "read" && slices.Contains(bad, int(ref.Shard.Index)) {
							return damage
						}
						return fault{}
					})
					got, err := w.read("object", Range{})
					if count <= int(scheme.Parity) {
						if err != nil || !bytes.Equal(got, body) {
							t.Fatalf("%s: %d bytes with shards %v %s: %d bytes, %v", scheme, n, bad, kind, len(got), err)
						}
					} else if len(got) == n || !errors.Is(err, ErrUnreadable) {
						// Data shards that are all well need no others.
						if needed := slices.ContainsFunc(bad, func(i int) bool { return i < int(scheme.Data) }); needed {
							t.Fatalf("%s: %d bytes with shards %v %s: %d bytes, %v", scheme, n, bad, kind, len(got), err)
						}
					}
					first, last := r.IntN(n), 0
					last = first + r.IntN(n-first)
					got, err = w.read("object", Range{Kind: RangeFromTo, First: int64(first), Last: int64(last)})
					if err == nil && !bytes.Equal(got, body[first:last+1]) || err != nil && count <= int(scheme.Parity) {
						t.Fatalf("%s: bytes %d-%d of %d with shards %v %s: %v", scheme, first, last, n, bad, kind, err)
					}
				}
			}
			w.shards.set(nil)
		}
	}
}

// TestDamageIsReported: what is certainly lost is queued for repair, once a
// chunk; what is merely out of reach is not.
func TestDamageIsReported(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]int{"flipped": 1, "not found": 1, "fenced": 0, "unknown": 0} {
		w := newWorld(t, setup{})
		w.mustPut("object", payload(300_000, 1))
		w.shards.set(func(op string, _ topology.DriveID, ref metadata.ShardRef) fault {
			if op == "read" && ref.Shard.Index == 1 {
				return damageKinds[kind]
			}
			return fault{}
		})
		for range 3 {
			w.expect("object", payload(300_000, 1))
		}
		reported := w.TakeDamage(10)
		if len(reported) != want {
			t.Errorf("%s: %d reports, want %d", kind, len(reported), want)
		}
		for _, d := range reported {
			if d.Missing != 1<<1 || d.Chunk.ID == (metadata.ChunkID{}) || d.Part == (metadata.PartID{}) {
				t.Errorf("%s: reported %+v", kind, d)
			}
		}
	}
}

// TestRotEverywhere damages other shards in every stripe: no shard is whole,
// yet every stripe can be read.
func TestRotEverywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	body := payload(3_000_000, 1)
	w.mustPut("object", body)
	// Each shard is rotten in every third stripe: two shards of each.
	w.shards.set(func(op string, _ topology.DriveID, ref metadata.ShardRef) fault {
		if op != "read" {
			return fault{}
		}
		return fault{rot: func(p []byte, off int64) {
			for at := 0; at < len(p); at += frameBytes {
				stripe := (int(off) + at) / frameBytes
				if (stripe+int(ref.Shard.Index))%3 == 0 {
					p[at+stripe] ^= 4
				}
			}
		}}
	})
	w.expect("object", body)
	if s := w.State(); s.DegradedRuns == 0 || s.Unreadable != 0 {
		t.Errorf("state %+v", s)
	}
}

// TestRotOnTheFly flips bits of reads at random, many readers at once: bytes
// are right or there is an error.
func TestRotOnTheFly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	body := payload(1_200_000, 1)
	w.mustPut("object", body)
	var n atomic.Uint64
	w.shards.set(func(op string, _ topology.DriveID, _ metadata.ShardRef) fault {
		if i := n.Add(1); op == "read" && i%5 == 0 {
			return fault{spoil: func(p []byte) { p[int(i*7919)%len(p)] ^= byte(i) | 1 }}
		}
		return fault{}
	})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 10 {
				got, err := w.read("object", Range{})
				if err == nil && !bytes.Equal(got, body) || err != nil && !errors.Is(err, ErrUnreadable) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if !bytes.Equal(got, body[:len(got)]) {
					t.Error("wrong bytes before the error")
				}
			}
		})
	}
	group.Wait()
}

// TestWriteFailures fails shards at each step.
func TestWriteFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		scheme metadata.Scheme
		loss   DriveLoss
		failed int
		err    error // what fails
		want   error
	}{
		{metadata.NewScheme(4, 2), DriveLossRefuse, 1, metadata.ErrFenced, nil},
		{metadata.NewScheme(4, 2), DriveLossRefuse, 2, metadata.ErrFenced, ErrUnwritable},
		{metadata.NewScheme(4, 2), DriveLossRefuse, 2, metadata.ErrDriveFull, ErrFull},
		{metadata.NewScheme(2, 1), DriveLossRefuse, 1, metadata.ErrFenced, ErrUnwritable},
		{metadata.NewScheme(2, 1), DriveLossDegrade, 1, metadata.ErrFenced, nil},
		{metadata.NewScheme(2, 1), DriveLossDegrade, 2, metadata.ErrFenced, ErrUnwritable},
		{metadata.NewScheme(1, 0), DriveLossDegrade, 1, metadata.ErrFenced, ErrUnwritable},
		{metadata.NewScheme(8, 4), DriveLossRefuse, 3, metadata.ErrFenced, nil},
	} {
		for _, step := range []string{"create", "write", "close"} {
			for _, n := range []int{20_000, 2_000_000} {
				w := newWorld(t, setup{scheme: test.scheme, options: func(o *Options) { o.OnDriveLoss = test.loss }})
				body := payload(n, 1)
				bad := w.drives[:test.failed]
				w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
					if op == step && slices.Contains(bad, d) {
						return fault{err: test.err}
					}
					return fault{}
				})
				name := fmt.Sprintf("%s %d of %s fail at %s, %d bytes", test.scheme, test.failed, test.err, step, n)
				_, err := w.put("object", body)
				if !errors.Is(err, test.want) {
					t.Errorf("%s: %v, want %v", name, err, test.want)
				}
				w.shards.set(nil)
				if test.want != nil {
					w.expectNothing(name)
					continue
				}
				w.expect("object", body)
				row, err := w.bucket(t.Context(), "b")
				if err != nil {
					t.Fatal(err)
				}
				short, err := w.meta.Short(t.Context(), row.row.Group, nil, 10)
				if err != nil || len(short) != 1 || ones(short[0].Missing) != test.failed || int(short[0].Margin) != int(test.scheme.Parity)-test.failed {
					t.Errorf("%s: short rows %+v, %v", name, short, err)
				}
				if d := w.TakeDamage(2); len(d) != 1 || d[0].Missing != short[0].Missing {
					t.Errorf("%s: repair queue %+v", name, d)
				}
			}
		}
	}
}

// expectNothing sees that neither object nor shards nor memory are left.
func (w *world) expectNothing(name string) {
	w.t.Helper()
	if _, err := w.read("object", Range{}); !errors.Is(err, metadata.ErrNoSuchKey) {
		w.t.Errorf("%s: the object is there: %v", name, err)
	}
	w.tasks.Wait()
	if n := w.stored(); n != 0 {
		w.t.Errorf("%s: %d shards are left", name, n)
	}
	w.shards.mu.Lock()
	defer w.shards.mu.Unlock()
	if w.shards.open != 0 {
		w.t.Errorf("%s: %d writers are open", name, w.shards.open)
	}
	if s := w.State(); s.Writes.UsedBytes != 0 || s.RunningWrites != 0 {
		w.t.Errorf("%s: %+v", name, s)
	}
}

// TestBrokenBodies: a body that is not what it should be leaves nothing.
func TestBrokenBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	broken := errors.New("connection reset")
	for _, n := range []int{0, 10, 100_000, 2_000_000} {
		data := payload(n, 1)
		wrong := [16]byte{1}
		bodies := map[string]struct {
			body Body
			want error
		}{
			"too long":      {Body{Reader: bytes.NewReader(append(bytes.Clone(data), 1)), Bytes: int64(n)}, ErrBodyTooLong},
			"too short":     {Body{Reader: bytes.NewReader(data), Bytes: int64(n) + 1}, ErrIncompleteBody},
			"reader fails":  {Body{Reader: io.MultiReader(bytes.NewReader(data), failing{broken}), Bytes: int64(n) + 100}, broken},
			"fails at last": {Body{Reader: io.MultiReader(bytes.NewReader(data), failing{broken}), Bytes: int64(n)}, broken},
			"md5":           {Body{Reader: bytes.NewReader(data), Bytes: int64(n), MD5: &wrong}, ErrBadDigest},
			"checksum": {Body{Reader: bytes.NewReader(data), Bytes: int64(n),
				Checksum: metadata.Checksum{Algorithm: metadata.ChecksumCRC32C, Value: "abcd"}}, ErrBadChecksum},
			"trailer": {Body{Reader: bytes.NewReader(data), Bytes: int64(n), Checksum: metadata.Checksum{Algorithm: metadata.ChecksumCRC64NVME},
				Trailer: func() (string, error) { return "12345678", nil }}, ErrBadChecksum},
			"trailer fails": {Body{Reader: bytes.NewReader(data), Bytes: int64(n), Checksum: metadata.Checksum{Algorithm: metadata.ChecksumSHA256},
				Trailer: func() (string, error) { return "", broken }}, broken},
		}
		for name, test := range bodies {
			_, err := w.Put(t.Context(), &PutRequest{Bucket: "b", Key: "object", Body: test.body})
			if !errors.Is(err, test.want) {
				t.Errorf("%d bytes, %s: %v, want %v", n, name, err, test.want)
			}
			w.expectNothing(name)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestCancel ends the context of a PUT at every call on a drive.
func TestCancel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	body := payload(1_000_000, 1)
	cause := errors.New("client went away")
	for at := 1; ; at += 1 + at/8 {
		ctx, cancel := context.WithCancelCause(t.Context())
		var n atomic.Int64
		w.shards.set(func(op string, _ topology.DriveID, _ metadata.ShardRef) fault {
			if op != "read" && int(n.Add(1)) == at {
				cancel(cause)
			}
			return fault{}
		})
		_, err := w.Put(ctx, &PutRequest{Bucket: "b", Key: "object", Body: Body{Reader: bytes.NewReader(body), Bytes: int64(len(body))}})
		w.shards.set(nil)
		if err == nil {
			w.expect("object", body) // cancelled when all was done
			if _, err := w.Delete(t.Context(), "b", []DeleteRequest{{Key: "object"}}); err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, cause) {
			t.Errorf("cancelled at call %d: %v", at, err)
		}
		w.expectNothing(fmt.Sprintf("cancelled at call %d", at))
		cancel(nil)
	}
}

// TestCancelledReads ends the context of a GET at every read.
func TestCancelledReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	body := payload(3_000_000, 1)
	w.mustPut("object", body)
	for at := range 20 {
		ctx, cancel := context.WithCancelCause(t.Context())
		var n atomic.Int64
		w.shards.set(func(op string, _ topology.DriveID, _ metadata.ShardRef) fault {
			if op == "read" && int(n.Add(1)) == at {
				cancel(nil)
				return fault{err: context.Canceled}
			}
			return fault{}
		})
		if o, err := w.Get(ctx, &GetRequest{Bucket: "b", Key: "object"}); err == nil {
			var got bytes.Buffer
			_, err := o.WriteTo(&got)
			if err == nil && !bytes.Equal(got.Bytes(), body) || !bytes.Equal(got.Bytes(), body[:got.Len()]) {
				t.Errorf("cancelled at read %d: %d bytes", at, got.Len())
			}
			check(t, o.Close())
		}
		cancel(nil)
		w.tasks.Wait()
		if s := w.State(); s.Reads.UsedBytes != 0 || s.RunningReads != 0 || s.Leases.OldestReader != 0 {
			t.Errorf("cancelled at read %d: %+v", at, s)
		}
	}
}

// TestHangingDrives: a write goes on without a drive that hangs, as long as
// enough others do not; so does a read.
func TestHangingDrives(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"create", "write", "close"} {
		for _, n := range []int{20_000, 3_000_000} {
			t.Run(fmt.Sprintf("%s/%d", step, n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, setup{})
					release := make(chan struct{})
					hang := func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
						if op == step && d == w.drives[2] {
							return fault{wait: release}
						}
						return fault{}
					}
					w.shards.set(hang)
					body := payload(n, 1)
					begun := time.Now()
					w.mustPut("object", body)
					if took := time.Since(begun); took < w.options.LagTimeout || took > 2*w.options.LagTimeout {
						t.Errorf("took %v", took)
					}
					if s := w.State(); s.HangingTasks != 1 || s.ShortWrites != 1 {
						t.Errorf("state %+v", s)
					}
					close(release)
					w.shards.set(nil)
					w.expect("object", body)
				})
			})
		}
	}
	t.Run("read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, setup{})
			body := payload(3_000_000, 1)
			w.mustPut("object", body)
			release := make(chan struct{})
			w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
				if op == "read" && d == w.drives[2] {
					return fault{wait: release}
				}
				return fault{}
			})
			begun := time.Now()
			w.expect("object", body)
			if took := time.Since(begun); took > 2*w.options.ReadTimeout {
				t.Errorf("took %v", took)
			}
			if s := w.State(); s.Hedges+s.DegradedRuns == 0 || s.HangingTasks == 0 {
				t.Errorf("state %+v", s)
			}
			close(release)
			synctest.Wait()
		})
	})
}

// TestAllDrivesHang: a write that cannot do without a hanging drive fails in
// the end, and leaves nothing once the drive wakes up.
func TestAllDrivesHang(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"create", "write", "close"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, setup{})
			release := make(chan struct{})
			w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
				if op == step && slices.Contains(w.drives[:2], d) {
					return fault{wait: release}
				}
				return fault{}
			})
			if _, err := w.put("object", payload(3_000_000, 1)); !errors.Is(err, ErrUnwritable) || !errors.Is(err, metadata.ErrSlow) {
				t.Errorf("hanging at %s: %v", step, err)
			}
			close(release)
			synctest.Wait()
			w.expectNothing("hanging at " + step)
		})
	}
}

// TestLostDrives: what is known to be down is not asked, or asked last.
func TestLostDrives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{drives: 12, groups: 40})
	body := payload(400_000, 1)
	w.mustPut("before", body)
	w.shards.lose(w.drives[0], w.drives[1])
	w.expect("before", body)
	check(t, w.ReloadTopology(t.Context())) // what is known of drives counts for a second
	for i := range 10 {
		key := fmt.Sprintf("after%d", i)
		w.mustPut(key, body)
		w.expect(key, body)
	}
	if s := w.State(); s.ShortWrites != 0 || s.DamageDepth != 0 {
		t.Errorf("groups with a lost drive were chosen, or a drive out of reach is taken for damage: %+v", s)
	}
}

// TestMovingGeneration: a shard that its new drive does not have yet is read
// from the old one.
func TestMovingGeneration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{drives: 7, groups: 1})
	body := payload(400_000, 1)
	w.mustPut("object", body)
	table, err := w.meta.PGs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	members := table.Groups[0].Newest().Members
	var spare topology.DriveID
	for _, d := range w.drives {
		if !slices.Contains(members, d) {
			spare = d
		}
	}
	moved, n, err := placement.Replace(table, members[1], spare)
	if err != nil || n != 1 {
		t.Fatal(n, err)
	}
	cmd := &metadata.Command{Kind: metadata.KindPushPGs, Version: 1, Request: metadata.RequestID{77}, PGs: moved}
	if _, err := w.meta.Metadata.Commit(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	check(t, w.ReloadTopology(t.Context()))
	w.expect("object", body)
	if s := w.State(); s.DegradedRuns != 0 || s.DamageDepth != 0 {
		t.Errorf("state %+v", s)
	}
	w.mustPut("new", body)
	w.shards.lose(members[1])
	w.expect("new", body)
	w.expect("object", body)
}

// TestSlowDrivesAreAskedLast: after some reads a slow drive is avoided, and
// after a while it is tried again.
func TestSlowDrivesAreAskedLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{groups: 1, options: func(o *Options) { o.HedgeAfter = 0 }})
		body := payload(300_000, 1)
		w.mustPut("object", body)
		table, err := w.meta.PGs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		slow := table.Groups[0].Newest().Members[0]
		var asked atomic.Int64
		w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
			if op == "read" && d == slow {
				asked.Add(1)
				time.Sleep(time.Second)
			}
			return fault{}
		})
		for range 400 {
			w.expect("object", body)
		}
		time.Sleep(2 * time.Second)
		if n := asked.Load(); n > 40 {
			t.Errorf("a slow drive was asked %d times of 400", n)
		}
		if s := w.State(); s.Hedges > 40 || s.Hedges == 0 {
			t.Errorf("%d hedges for 400 reads", s.Hedges)
		}
		w.shards.set(nil)
		before := asked.Load()
		time.Sleep(2 * slowMemory)
		w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
			if op == "read" && d == slow {
				asked.Add(1)
			}
			return fault{}
		})
		w.expect("object", body)
		if asked.Load() == before {
			t.Error("the drive is avoided for ever")
		}
	})
}

// TestCloseWithHangingDrive: Close does not wait for ever for a drive, and says
// which one it is.
func TestCloseWithHangingDrive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		stuck, hang := w.drives[2], make(chan struct{})
		w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
			if op == "write" && d == stuck {
				return fault{wait: hang}
			}
			return fault{}
		})
		w.mustPut("object", payload(100_000, 1))
		started := time.Now()
		err := w.Close()
		if !errors.Is(err, ErrHanging) || !strings.Contains(err.Error(), stuck.String()) || strings.Contains(err.Error(), w.drives[3].String()) {
			t.Errorf("closed with %v, want drive %s", err, stuck)
		}
		if hangs, ok := errors.AsType[*HangingError](err); !ok || !slices.Equal(hangs.Drives, []topology.DriveID{stuck}) || hangs.After != 10*time.Second {
			t.Errorf("closed with %+v, want drive %s", hangs, stuck)
		}
		if d := time.Since(started); d != 10*time.Second {
			t.Errorf("after %v", d)
		}
		close(hang) // what follows closes again
	})
}
