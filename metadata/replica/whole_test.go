package replica_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/state"
)

// iterated reads rows through the iterator of a long read.
type iterated struct {
	pebble.Reader // only what is below is used
	it            *pebble.Iterator
}

func (i iterated) NewIter(o *pebble.IterOptions) (*pebble.Iterator, error) {
	return i.it.Clone(pebble.CloneOptions{IterOptions: o})
}

// names returns the buckets of the root, and those that are open in groups.
func names(it *pebble.Iterator) (root, open map[metadata.BucketID]bool, err error) {
	root, open = map[metadata.BucketID]bool{}, map[metadata.BucketID]bool{}
	buckets, err := state.NewView(iterated{it: it}).Buckets("", "", state.MaxBuckets)
	for _, b := range buckets {
		root[b.ID] = true
	}
	const settings = 0x20 // the table of open buckets
	for ok := it.First(); ok; ok = it.Next() {
		if k := it.Key(); k[4] == settings {
			open[metadata.BucketID(k[5:21])] = true
		}
	}
	return root, open, errors.Join(err, it.Error())
}

// createBucket takes a name in the root, then opens the bucket in its group,
// then puts objects into it.
func createBucket(ctx context.Context, e replica.Engine, i int) error {
	id, group := metadata.BucketID{0xee, byte(i >> 8), byte(i)}, uint32(i%metadata.DataGroups+1)
	cmds := []*metadata.Command{
		{Kind: metadata.KindReserveBucket, Bucket: &metadata.Bucket{Name: fmt.Sprint("bucket", i), ID: id, Group: group}},
		{Kind: metadata.KindOpenBucket, Group: group, Settle: &metadata.Settings{Bucket: id, Name: "b", Epoch: 1}},
	}
	for n := range 5 {
		c := put(request(i, n), fmt.Sprint("k", n), "v")
		c.Group, c.Epoch, c.CommitVersion.Bucket = group, 0, id
		cmds = append(cmds, c)
	}
	for n, c := range cmds {
		c.Version, c.Request = metadata.CommandVersion, request(i, 100+n)
		if _, err := e.Commit(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// TestWholeFits reads all groups while buckets are made: what a data group
// holds has its name in the root, and what was there before is there.
func TestWholeFits(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]replica.Engine{
		"one copy":     open(t, replica.Options{}),
		"three copies": openReplicated(t, places(t, 3), engineOptions()),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex // guards made
			made := 0
			stop := make(chan struct{})
			var g sync.WaitGroup
			g.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					if err := createBucket(context.Background(), e, i); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					made = i + 1
					mu.Unlock()
				}
			})
			for range 20 {
				mu.Lock()
				before := made
				mu.Unlock()
				err := e.Whole(t.Context(), func(ctx context.Context, it *pebble.Iterator) error {
					root, open, err := names(it)
					for id := range open {
						if !root[id] {
							t.Errorf("bucket %x is open in its group and unknown to the root", id[:3])
						}
					}
					if len(open) < before {
						t.Errorf("%d buckets, %d were made before", len(open), before)
					}
					return errors.Join(err, ctx.Err())
				})
				if err != nil {
					t.Error(err)
				}
			}
			close(stop)
			g.Wait()
		})
	}
}

// TestWholeEnds closes and exchanges engines that are being read.
func TestWholeEnds(t *testing.T) {
	t.Parallel()
	local := func() replica.Engine {
		l, err := replica.Open("meta", replica.Options{FS: vfs.NewMem(), Now: fixed(start), ReserveBytes: -1})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	several, err := replica.OpenReplicated(places(t, 3), engineOptions())
	if err != nil {
		t.Fatal(err)
	}
	exchanged := replica.NewSwitch(local())
	t.Cleanup(func() {
		if err := exchanged.Close(); err != nil {
			t.Error(err)
		}
	})
	one := local()
	for name, c := range map[string]struct {
		src interface {
			Whole(context.Context, replica.WholeReader) error
		}
		end   func() error
		again bool // it can be read afterwards
	}{
		"one copy":       {one, one.Close, false},
		"several copies": {several, several.Close, false},
		"exchange": {exchanged, func() error {
			return exchanged.Exchange(context.Background(), func(old replica.Engine) (replica.Engine, error) { return old, nil })
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := make(chan struct{})
			var g sync.WaitGroup
			g.Go(func() {
				err := c.src.Whole(context.Background(), func(ctx context.Context, it *pebble.Iterator) error {
					close(begun)
					<-ctx.Done()
					it.First() // still there
					return context.Cause(ctx)
				})
				if err == nil || errors.Is(err, context.Canceled) {
					t.Errorf("Whole = %v, want what ended it", err)
				}
			})
			<-begun
			if err := c.end(); err != nil {
				t.Error(err)
			}
			g.Wait()
			err := c.src.Whole(t.Context(), func(context.Context, *pebble.Iterator) error { return nil })
			if (err == nil) != c.again {
				t.Errorf("afterwards Whole = %v", err)
			}
		})
	}
	stopped, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the client left"))
	if err := exchanged.Whole(stopped, nil); !errors.Is(err, context.Cause(stopped)) {
		t.Errorf("Whole = %v", err)
	}
}
