package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

func TestBuckets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	if err := w.CreateBucket(t.Context(), "b"); !errors.Is(err, metadata.ErrBucketExists) {
		t.Errorf("second creation: %v", err)
	}
	for _, name := range []string{"c", "a"} {
		if err := w.CreateBucket(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	page, err := w.Buckets(t.Context(), &BucketsRequest{After: "a", Limit: 1})
	if err != nil || len(page.Buckets) != 1 || page.Buckets[0].Name != "b" || !page.Truncated || page.Buckets[0].Region != "fr-metro" {
		t.Errorf("buckets %+v, %v", page, err)
	}
	w.mustPut("k", []byte("x"))
	if err := w.DeleteBucket(t.Context(), "b"); !errors.Is(err, metadata.ErrBucketNotEmpty) {
		t.Errorf("deletion of a full bucket: %v", err)
	}
	if _, err := w.Delete(t.Context(), "b", []DeleteRequest{{Key: "k"}}); err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteBucket(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteBucket(t.Context(), "b"); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Errorf("second deletion: %v", err)
	}
	if _, err := w.put("k", nil); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Errorf("put into a deleted bucket: %v", err)
	}
	if err := w.CreateBucket(t.Context(), "b"); err != nil {
		t.Errorf("creation under a name that is free again: %v", err)
	}
	w.mustPut("k", []byte("y"))
	w.expect("k", []byte("y"))
}

// TestRecordsBeforeBucket: when a bucket exists, its record and that of its
// account are on m+1 drives; without them it is not created.
func TestRecordsBeforeBucket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, typ := range []metadata.RecordType{metadata.RecordAccount, metadata.RecordBucket} {
		found := 0
		for _, d := range w.drives {
			err := w.node.Records(t.Context(), d, typ, func(*metadata.Record, []byte) error { found++; return nil })
			check(t, err)
		}
		if found != 3 {
			t.Errorf("records of type %d on %d drives, want 3", typ, found)
		}
	}
	w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
		if op == "record" && slices.Contains(w.drives[:4], d) {
			return fault{err: metadata.ErrFenced}
		}
		return fault{}
	})
	if err := w.CreateBucket(t.Context(), "new"); !errors.Is(err, ErrUnwritable) {
		t.Errorf("creation with two drives: %v", err)
	}
	if _, err := w.Bucket(t.Context(), "new"); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Errorf("a bucket without records exists: %v", err)
	}
	w.shards.set(nil)
	check(t, w.CreateBucket(t.Context(), "new")) // goes on where the first stopped
}

// TestBucketStepsResume fails each command of a creation and of a deletion in
// turn; the next try finishes it.
func TestBucketStepsResume(t *testing.T) {
	t.Parallel()
	broken := errors.New("lost connection")
	{
		for step := 1; step <= 8; step++ {
			w := newWorld(t, setup{})
			n := 0
			w.meta.set(func(cmd *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error) {
				if n++; n == step {
					return nil, broken
				}
				return next()
			})
			failed := w.CreateBucket(t.Context(), "new")
			if failed == nil {
				failed = w.DeleteBucket(t.Context(), "new")
			}
			w.meta.set(nil)
			if step <= 7 && !errors.Is(failed, broken) {
				t.Fatalf("step %d: %v", step, failed)
			}
			if err := w.CreateBucket(t.Context(), "new"); err != nil && !errors.Is(err, metadata.ErrBucketExists) {
				// A close that took effect cannot be taken back: the deletion goes on first.
				if derr := w.DeleteBucket(t.Context(), "new"); derr != nil {
					t.Errorf("step %d: %v, %v", step, err, derr)
				}
			}
			b := body([]byte("x"))
			if _, err := w.Put(t.Context(), &PutRequest{Bucket: "new", Key: "k", Body: b}); err != nil {
				if derr := w.DeleteBucket(t.Context(), "new"); derr != nil {
					t.Errorf("step %d: put %v, delete %v", step, err, derr)
				}
				check(t, w.CreateBucket(t.Context(), "new"))
			}
		}
	}
}

func TestConcurrentBucketCreation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	var group sync.WaitGroup
	var created atomic.Int32
	for range 8 {
		group.Go(func() {
			switch err := w.CreateBucket(t.Context(), "new"); {
			case err == nil:
				created.Add(1)
			case !errors.Is(err, metadata.ErrBucketExists):
				t.Error(err)
			}
		})
	}
	group.Wait()
	if created.Load() == 0 {
		t.Error("nobody created the bucket")
	}
	_, err := w.Put(t.Context(), &PutRequest{Bucket: "new", Key: "k", Body: body([]byte("x"))})
	check(t, err)
}

// TestConcurrentBucketDeletion: of many deletions at least one succeeds, the
// others find no bucket; creations in between do not get lost.
func TestConcurrentBucketDeletion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for range 5 {
		check(t, w.CreateBucket(t.Context(), "new"))
		var deleted atomic.Int32
		var group sync.WaitGroup
		for range 6 {
			group.Go(func() {
				switch err := w.DeleteBucket(t.Context(), "new"); {
				case err == nil:
					deleted.Add(1)
				case !errors.Is(err, metadata.ErrNoSuchBucket):
					t.Error(err)
				}
			})
		}
		group.Wait()
		if deleted.Load() == 0 {
			t.Error("nobody deleted the bucket")
		}
		if _, err := w.Bucket(t.Context(), "new"); !errors.Is(err, metadata.ErrNoSuchBucket) {
			t.Errorf("the bucket is still there: %v", err)
		}
	}
}

// TestUnknownOutcome: a commit whose answer is lost is repeated under the same
// request id, and takes effect once.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, applied := range []bool{true, false} {
		w := newWorld(t, setup{})
		var requests []metadata.RequestID
		w.meta.set(func(cmd *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error) {
			requests = append(requests, cmd.Request)
			if len(requests) > 2 {
				return next()
			}
			if applied {
				if _, err := next(); err != nil {
					return nil, err
				}
			}
			return nil, metadata.ErrUnknownOutcome
		})
		_, err := w.Put(t.Context(), &PutRequest{Bucket: "b", Key: "k", Body: body(payload(50_000, 1)), Conditions: WriteConditions{IfNoneMatch: true}})
		w.meta.set(nil)
		if err != nil || len(requests) != 3 || requests[0] != requests[2] {
			t.Errorf("applied at first %t: %v after %d tries", applied, err, len(requests))
		}
		w.expect("k", payload(50_000, 1))
		u, err := w.Usage(t.Context(), "b")
		if err != nil || u.Versions != 1 {
			t.Errorf("usage %+v, %v", u, err)
		}
	}
}

// TestOutcomeNeverKnown: shards of a commit that may have taken effect are not
// freed; those of one that was refused for overload are.
func TestOutcomeNeverKnown(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		answer error
		want   error
		left   int
	}{
		{metadata.ErrUnknownOutcome, metadata.ErrUnknownOutcome, 6},
		{metadata.ErrOverloaded, ErrBusy, 0},
		{metadata.ErrPreconditionFailed, metadata.ErrPreconditionFailed, 6}, // for the collector
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, setup{})
			w.meta.set(func(*metadata.Command, func() (*metadata.Result, error)) (*metadata.Result, error) {
				return nil, test.answer
			})
			_, err := w.put("k", payload(50_000, 1))
			w.meta.set(nil)
			if !errors.Is(err, test.want) {
				t.Errorf("%v: put returned %v", test.answer, err)
			}
			w.tasks.Wait()
			if n := w.stored(); n != test.left {
				t.Errorf("%v: %d shards are left, want %d", test.answer, n, test.left)
			}
		})
	}
}

// TestCommitsEndWithTheEngine: what belongs to the engine does not hold its end
// up while nobody knows the outcome; a client that has gone changes nothing.
func TestCommitsEndWithTheEngine(t *testing.T) {
	t.Parallel()
	for cause, tries := range map[error]int{errClosed: 1, context.Canceled: 3} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, setup{})
			b, err := w.bucket(t.Context(), "b")
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancelCause(t.Context())
			defer stop(nil)
			n := 0
			w.meta.set(func(*metadata.Command, func() (*metadata.Result, error)) (*metadata.Result, error) {
				stop(cause)
				if n++; n < 3 {
					return nil, metadata.ErrUnknownOutcome
				}
				return nil, metadata.ErrPreconditionFailed
			})
			_, err = w.proposeOnly(ctx, &metadata.Command{Kind: metadata.KindClock, Version: metadata.CommandVersion, Group: b.row.Group})
			w.meta.set(nil)
			if n != tries || err == nil || (cause == errClosed) != errors.Is(err, metadata.ErrUnknownOutcome) {
				t.Errorf("%v: %d tries, %v; want %d", cause, n, err, tries)
			}
		})
	}
}

// TestStaleSettings changes the settings behind the engine's back.
func TestStaleSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.mustPut("k", []byte("x"))
	b, err := w.bucket(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	settings := b.settings
	settings.Compression = metadata.CompressionZstd
	settings.Epoch++
	cmd := &metadata.Command{Kind: metadata.KindPutSettings, Version: 1, Group: b.row.Group, Settings: b.settings.Epoch, Request: metadata.RequestID{5}, Settle: &settings}
	if _, err := w.meta.Metadata.Commit(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	w.mustPut("k", payload(100_000, 1))
	w.expect("k", payload(100_000, 1))
	if c, err := w.Compression(t.Context(), "b"); err != nil || c != metadata.CompressionZstd {
		t.Errorf("compression %d, %v", c, err)
	}
	w.mustPut("k", text(1_000_000))
	w.expect("k", text(1_000_000))
	u, err := w.Usage(t.Context(), "b")
	if err != nil || u.Bytes != 1_000_000 || u.StoredBytes > u.Bytes/2 {
		t.Errorf("usage %+v, %v", u, err)
	}
}

// TestInlineFull writes small bodies as chunks where the metadata has no room.
func TestInlineFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.meta.set(func(cmd *metadata.Command, next func() (*metadata.Result, error)) (*metadata.Result, error) {
		if cmd.CommitVersion != nil && cmd.CommitVersion.Inline != nil {
			return &metadata.Result{Rejected: metadata.ErrInlineFull}, metadata.ErrInlineFull
		}
		return next()
	})
	for _, n := range []int{1, 5000, 16_000} {
		w.mustPut("k", payload(n, 1))
		w.expect("k", payload(n, 1))
	}
	if w.stored() == 0 {
		t.Error("no shards were written")
	}
}

// TestEpochs: an engine that starts on the same metadata fences the one before.
func TestEpochs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	o := w.options
	o.HighestEpoch = 40
	second, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Put(t.Context(), &PutRequest{Bucket: "b", Key: "k", Body: body(nil)}); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("put before start: %v", err)
	}
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if l := second.Leases(); l.Current != 41 {
		t.Errorf("leases %+v", l)
	}
	if _, err := w.put("k", payload(50_000, 1)); !errors.Is(err, metadata.ErrFencedEpoch) {
		t.Errorf("put of the fenced engine: %v", err)
	}
	if _, err := second.Put(t.Context(), &PutRequest{Bucket: "b", Key: "k", Body: body([]byte("x"))}); err != nil {
		t.Error(err)
	}
}

// TestEpochsRoll: a request keeps its epoch, and the fence waits for it.
func TestEpochsRoll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		begun := w.Leases().Current
		r, pipe := io.Pipe()
		data := payload(500_000, 1)
		done := make(chan error)
		go func() {
			_, err := w.Put(t.Context(), &PutRequest{Bucket: "b", Key: "slow", Body: Body{Reader: r, Bytes: int64(len(data))}})
			done <- err
		}()
		pipe.Write(data[:1000])
		w.mustPut("old", payload(50_000, 2))
		o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "old"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3*w.options.EpochPeriod + time.Second)
		if l := w.Leases(); l.Current != begun+3 || !slices.Equal(l.Writers, []uint64{begun}) || l.OldestReader != begun {
			t.Errorf("leases %+v, began at %d", l, begun)
		}
		fence, err := w.meta.Fence(t.Context(), 3)
		if err != nil || fence.Floor != begun || !slices.Equal(fence.Living, []uint64{begun, begun + 2, begun + 3}) {
			t.Errorf("fence %+v, %v", fence, err)
		}
		pipe.Write(data[1000:])
		pipe.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.expect("slow", data)
		check(t, o.Close())
		time.Sleep(2 * w.options.EpochPeriod)
		fence, err = w.meta.Fence(t.Context(), 3)
		if err != nil || fence.Floor <= begun {
			t.Errorf("fence after the writer ended %+v, %v", fence, err)
		}
		if l := w.Leases(); len(l.Writers) != 0 || l.OldestReader != 0 {
			t.Errorf("leases %+v", l)
		}
	})
}

// TestBudgets: requests beyond the budget wait shortly, and fail.
func TestBudgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{options: func(o *Options) { o.StripeBudgetBytes, o.ReadBudgetBytes = 8<<20, 8<<20 }})
		data := payload(4_000_000, 1)
		w.mustPut("object", data)
		var group sync.WaitGroup
		var busy, done atomic.Int32
		var pipes []*io.PipeWriter
		var mu sync.Mutex
		for i := range 40 {
			group.Go(func() {
				r, p := io.Pipe()
				mu.Lock()
				pipes = append(pipes, p)
				mu.Unlock()
				_, err := w.Put(t.Context(), &PutRequest{Bucket: "b", Key: fmt.Sprint(i), Body: Body{Reader: r, Bytes: int64(len(data))}})
				r.CloseWithError(err)
				switch {
				case errors.Is(err, ErrBusy):
					busy.Add(1)
				case err != nil:
					t.Error(err)
				default:
					done.Add(1)
				}
			})
		}
		synctest.Wait()
		time.Sleep(2 * w.options.BudgetWait)
		synctest.Wait()
		if s := w.State().Writes; s.PeakBytes > s.LimitBytes || s.UsedBytes == 0 {
			t.Errorf("budget %+v", s)
		}
		for _, p := range pipes {
			group.Go(func() { p.Write(data); p.Close() })
		}
		group.Wait()
		if busy.Load() == 0 || done.Load() < 10 || busy.Load()+done.Load() != 40 {
			t.Errorf("%d were busy, %d done", busy.Load(), done.Load())
		}

		var objects []*Object
		for {
			o, err := w.Get(t.Context(), &GetRequest{Bucket: "b", Key: "object"})
			if errors.Is(err, ErrBusy) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			objects = append(objects, o)
		}
		if len(objects) < 4 {
			t.Errorf("%d readers at a time", len(objects))
		}
		for _, o := range objects {
			if _, err := io.Copy(io.Discard, io.LimitReader(o, 70_000)); err != nil {
				t.Error(err)
			}
			check(t, o.Close())
		}
		w.expect("object", data)
	})
}

// TestConditionalRace: of many writers that want to be first, one is.
func TestConditionalRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for round := range 5 {
		key := fmt.Sprint(round)
		var won atomic.Int32
		var group sync.WaitGroup
		winner := make(chan []byte, 16)
		for i := range 16 {
			group.Go(func() {
				data := payload(20_000+i, uint64(i))
				_, err := w.Put(t.Context(), &PutRequest{Bucket: "b", Key: key, Body: body(data), Conditions: WriteConditions{IfNoneMatch: true}})
				switch {
				case err == nil:
					won.Add(1)
					winner <- data
				case !errors.Is(err, metadata.ErrPreconditionFailed):
					t.Error(err)
				}
			})
		}
		group.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d writers were first", won.Load())
		}
		w.expect(key, <-winner)
	}
}

// TestReadersAndWriters overwrites and reads few keys from many goroutines: a
// reader gets one version, whole.
func TestReadersAndWriters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	sizes := []int{100, 30_000, 400_000}
	key := func(i int) string { return fmt.Sprintf("key%d", i%3) }
	for i := range 3 {
		w.mustPut(key(i), payload(sizes[i], 0))
	}
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for i := range 15 {
				if _, err := w.put(key(i), payload(sizes[i%3], uint64(g))); err != nil {
					t.Error(err)
				}
			}
		})
		group.Go(func() {
			for i := range 30 {
				got, err := w.read(key(i), Range{})
				if err != nil {
					t.Error(err)
					continue
				}
				known := false
				for seed := range uint64(4) {
					known = known || bytes.Equal(got, payload(sizes[i%3], seed))
				}
				if !known {
					t.Errorf("key %d: %d bytes that nobody wrote", i, len(got))
				}
			}
		})
	}
	group.Wait()
}

// TestTampered moves the version of one key to another behind the engine's
// back, and gives it an unsealed part.
func TestTampered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, n := range []int{100, 100_000} {
		w.mustPut("one", payload(n, 1))
		w.mustPut("two", payload(n, 2))
		b, err := w.bucket(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		opened, err := w.meta.Open(t.Context(), b.ref(), "one", "")
		if err != nil {
			t.Fatal(err)
		}
		v := opened.Version
		epoch, release, err := w.Epoch()
		if err != nil {
			t.Fatal(err)
		}
		for i := range opened.Chunks {
			opened.Chunks[i].ID[0] ^= 1 // else the rows would clash; nobody reads so far
		}
		v.Part.ID[0] ^= 1
		cmd := &metadata.Command{Kind: metadata.KindCommitVersion, Version: 1, Group: b.row.Group, Settings: b.settings.Epoch, Epoch: epoch,
			Request: metadata.RequestID{byte(n)}, CommitVersion: &metadata.CommitVersion{Bucket: b.row.ID, Key: "two", Version: v, Chunks: opened.Chunks, Inline: opened.Inline}}
		_, err = w.meta.Metadata.Commit(t.Context(), cmd)
		release()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.read("two", Range{}); !errors.Is(err, ErrDamaged) {
			t.Errorf("version of another key: %v", err)
		}
	}
	if w.State().MACFailures == 0 {
		t.Error("no MAC failed")
	}
}

// TestRestart starts another engine on the same drives and metadata, with the
// same keys.
func TestRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	data := payload(700_000, 1)
	w.mustPut("object", data)
	w.mustPut("small", data[:10])
	o := w.options
	again, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	check(t, again.Start(context.Background()))
	defer again.Close()
	for key, want := range map[string][]byte{"object": data, "small": data[:10]} {
		got, err := again.Get(t.Context(), &GetRequest{Bucket: "b", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(got)
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %d bytes, %v", key, len(b), err)
		}
		check(t, got.Close())
	}
}

// TestConfirms: drives learn that metadata refers to their shards.
func TestConfirms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.mustPut("object", payload(100_000, 1))
		time.Sleep(2 * confirmDelay)
		synctest.Wait()
		for _, d := range w.drives {
			rows, err := w.node.List(t.Context(), d, metadata.ShardRef{}, true, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				if r.Type == metadata.RecordShard {
					t.Errorf("shard %s is pending", r.Shard)
				}
			}
		}
	})
}

// TestOptions: mistakes are found at once, all of them.
func TestOptions(t *testing.T) {
	t.Parallel()
	_, err := New(Options{Encryption: true, StripeBudgetBytes: 1, EpochPeriod: -1})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"no metadata", "no shards", "no drives", "without keys", "stripe budget", "negative duration"} {
		if !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

// TestStaleBucket: a bucket was deleted and created again behind the back of
// the cache. Each kind of write finds out at its second try.
func TestStaleBucket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	put := func() error { _, err := w.put("k", []byte("x")); return err }
	source := CopySource{Bucket: "source", Key: "k"}
	check(t, w.CreateBucket(t.Context(), "source"))
	_, err := w.Put(t.Context(), &PutRequest{Bucket: "source", Key: "k", Body: body([]byte("x"))})
	check(t, err)
	for name, write := range map[string]func() error{
		"put": put,
		"copy": func() error {
			_, err := w.Copy(t.Context(), &CopyRequest{Source: source, Bucket: "b", Key: "copy"})
			return err
		},
		"delete": func() error {
			_, err := w.Delete(t.Context(), "b", []DeleteRequest{{Key: "none"}})
			return err
		},
		"upload": func() error {
			_, err := w.CreateUpload(t.Context(), &UploadRequest{Bucket: "b", Key: "m"})
			return err
		},
		"part": func() error {
			_, err := w.PutPart(t.Context(), &PartRequest{Bucket: "b", Key: "m", Number: 1, Body: body([]byte("x"))})
			return err
		},
		"part copy": func() error {
			_, err := w.CopyPart(t.Context(), &PartCopyRequest{Source: source, Bucket: "b", Key: "m", Number: 1})
			return err
		},
		"complete": func() error {
			_, err := w.Complete(t.Context(), &CompleteRequest{Bucket: "b", Key: "m", Parts: []CompletePart{{Number: 1}}, Bytes: -1})
			return err
		},
		"abort": func() error { return w.Abort(t.Context(), "b", "m", metadata.UploadID{1}) },
	} {
		stale, err := w.bucket(t.Context(), "b")
		check(t, err)
		w.empty("b")
		check(t, w.DeleteBucket(t.Context(), "b"))
		check(t, w.CreateBucket(t.Context(), "b"))
		w.buckets.put(stale)
		first := write()
		if second := write(); errors.Is(second, metadata.ErrNoSuchBucket) {
			t.Errorf("%s: %v, then %v", name, first, second)
		}
	}
}

// empty deletes all keys and uploads of a bucket.
func (w *world) empty(name string) {
	w.t.Helper()
	page, err := w.List(w.t.Context(), &ListRequest{Bucket: name, Limit: 100})
	check(w.t, err)
	for _, entry := range page.Entries {
		_, err := w.Delete(w.t.Context(), name, []DeleteRequest{{Key: entry.Key}})
		check(w.t, err)
	}
	uploads, err := w.Uploads(w.t.Context(), &UploadsRequest{Bucket: name, Limit: 100})
	check(w.t, err)
	for _, u := range uploads.Uploads {
		check(w.t, w.Abort(w.t.Context(), name, u.Key, u.ID))
	}
}
