package node

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/gateway/object/shardtest"
)

// steppedClock advances whenever it is asked, and tells of every wait.
type steppedClock struct {
	mu    sync.Mutex
	now   time.Time
	waits chan chan<- time.Time
}

func (c *steppedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Second)
	return c.now
}

func (c *steppedClock) After(time.Duration) <-chan time.Time {
	fire := make(chan time.Time, 1)
	c.waits <- fire
	return fire
}

// TestGather: a shard that waits for its sync waits a little for those that are
// being written, and shares the sync with them.
func TestGather(t *testing.T) {
	t.Parallel()
	var syncs atomic.Int32
	mem := vfs.NewMem()
	format(t, mem, "d")
	clock := &steppedClock{waits: make(chan chan<- time.Time, 10)}
	opts := quietOptions(errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSyncData && strings.HasPrefix(op.Path, "d/seg/") {
			syncs.Add(1)
		}
		return nil
	})))
	opts.Clock = clock
	w := open(t, opts, "d")
	begin := func() (*shardtest.Shard, Writer) {
		s := shardtest.NewShard(w.rng, 1, 1000)
		writer, err := w.n.CreateNew(t.Context(), w.id, &s.Record, int64(len(s.Framed)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write(append([]byte(nil), s.Framed...)); err != nil {
			t.Fatal(err)
		}
		w.shards = append(w.shards, s)
		return s, writer
	}
	s, writer := begin() // nothing is known of syncs: there is no wait
	if err := writer.Close(&s.Footer); err != nil || len(clock.waits) != 0 {
		t.Fatal(err, len(clock.waits))
	}
	s, writer = begin() // alone
	if err := writer.Close(&s.Footer); err != nil || len(clock.waits) != 0 {
		t.Fatal(err, len(clock.waits))
	}
	syncs.Store(0)
	first, one := begin()
	second, two := begin()
	var done sync.WaitGroup
	done.Go(func() {
		if err := one.Close(&first.Footer); err != nil {
			t.Error(err)
		}
	})
	<-clock.waits
	if err := two.Close(&second.Footer); err != nil {
		t.Fatal(err)
	}
	done.Wait()
	if n := syncs.Load(); n != 1 {
		t.Errorf("%d syncs for two shards at once", n)
	}

	// One that stays away is not waited for any longer, nor one that is given up.
	_, away := begin()
	last, writer := begin()
	done.Go(func() {
		if err := writer.Close(&last.Footer); err != nil {
			t.Error(err)
		}
	})
	fire := <-clock.waits
	fire <- time.Time{}
	done.Wait()
	away.Abort()
	w.shards = append(w.shards[:len(w.shards)-2], last)
	if n := w.d.filling.Load(); n != 0 {
		t.Errorf("%d shards are thought to be on their way", n)
	}
	for _, s := range w.shards {
		w.check(s)
	}
	w.close()
}
