package replica_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// gate lets tests hold back the syncs of the log.
type gate struct {
	shut    atomic.Bool
	waiting chan struct{} // gets a value for every sync that waits
	open    chan struct{}
}

func newGate() *gate {
	return &gate{waiting: make(chan struct{}, 100), open: make(chan struct{})}
}

func (g *gate) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		if g.shut.Load() && strings.HasSuffix(op.Path, ".log") {
			g.waiting <- struct{}{}
			<-g.open
		}
	}
	return nil
}

func (g *gate) String() string { return "gate" }

func (g *gate) release() {
	g.shut.Store(false)
	close(g.open)
}

type answer struct {
	res *metadata.Result
	err error
}

func commit(ctx context.Context, l *replica.Local, c *metadata.Command) <-chan answer {
	ch := make(chan answer, 1)
	go func() {
		res, err := l.Commit(ctx, c)
		ch <- answer{res, err}
	}()
	return ch
}

func TestNothingIsVisibleBeforeItIsDurable(t *testing.T) {
	t.Parallel()
	g := newGate()
	l := open(t, replica.Options{FS: errorfs.Wrap(vfs.NewMem(), g)})
	prepare(t, l)
	g.shut.Store(true)
	done := commit(t.Context(), l, put(request(1, 1), "a", "x"))
	<-g.waiting
	if _, err := l.Open(t.Context(), testBucket, "a", ""); !errors.Is(err, metadata.ErrNoSuchKey) {
		t.Errorf("Open before the sync = %v, want %v", err, metadata.ErrNoSuchKey)
	}
	g.release()
	if a := <-done; a.err != nil {
		t.Fatal(a.err)
	}
	if _, err := l.Open(t.Context(), testBucket, "a", ""); err != nil {
		t.Errorf("Open after the sync = %v", err)
	}
}

func TestCancelledCommits(t *testing.T) {
	t.Parallel()
	g := newGate()
	l := open(t, replica.Options{FS: errorfs.Wrap(vfs.NewMem(), g)})
	prepare(t, l)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Commit(gone, put(request(1, 0), "never", "x")); !errors.Is(err, context.Canceled) || errors.Is(err, metadata.ErrUnknownOutcome) {
		t.Errorf("Commit of a cancelled context = %v", err)
	}

	g.shut.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := commit(ctx, l, put(request(1, 1), "a", "x"))
	<-g.waiting // applied, and being synced
	cancel()
	if a := <-done; !errors.Is(a.err, metadata.ErrUnknownOutcome) || !errors.Is(a.err, context.Canceled) {
		t.Errorf("Commit = %v, want %v", a.err, metadata.ErrUnknownOutcome)
	}
	g.release()
	res, err := l.Commit(t.Context(), put(request(1, 1), "a", "x"))
	if err != nil || res.Replaced {
		t.Errorf("retry = %+v, %v; want the first result", res, err)
	}
}

func TestFullQueueRefuses(t *testing.T) {
	t.Parallel()
	g := newGate()
	l := open(t, replica.Options{FS: errorfs.Wrap(vfs.NewMem(), g), QueueLength: 2, BatchCommands: 1})
	prepare(t, l)
	g.shut.Store(true)
	var pending []<-chan answer
	// With the log held, a few batches are on their way and the queue fills.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := 0; ; i++ {
		ch := commit(ctx, l, put(request(1, i), fmt.Sprint(i), "x"))
		if l.Metrics().Overloads > 0 {
			pending = append(pending, ch)
			break
		}
		pending = append(pending, ch)
		if i > 1_000_000 {
			t.Fatal("the queue never fills")
		}
	}
	g.release()
	overloads := 0
	for _, ch := range pending {
		a := <-ch
		if errors.Is(a.err, metadata.ErrOverloaded) {
			overloads++
		} else if a.err != nil {
			t.Error(a.err)
		}
	}
	if overloads == 0 {
		t.Error("no Commit was refused")
	}
}

func TestFullDiskLetsDeletesThrough(t *testing.T) {
	t.Parallel()
	var free atomic.Uint64
	free.Store(1 << 30)
	var mu sync.Mutex // guards now
	now := start
	l := open(t, replica.Options{
		ReserveBytes: 100 << 20,
		DiskUsage: func() (vfs.DiskUsage, error) {
			return vfs.DiskUsage{AvailBytes: free.Load(), TotalBytes: 10 << 30}, nil
		},
		Now: func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			now = now.Add(time.Second)
			return now
		},
	})
	prepare(t, l)
	if _, err := l.Commit(t.Context(), put(request(1, 1), "a", "x")); err != nil {
		t.Fatal(err)
	}
	free.Store(99 << 20)
	if _, err := l.Commit(t.Context(), put(request(1, 2), "b", "x")); !errors.Is(err, metadata.ErrMetadataFull) {
		t.Errorf("put on a full disk = %v, want %v", err, metadata.ErrMetadataFull)
	}
	del := &metadata.Command{Kind: metadata.KindDeleteVersions, Version: metadata.CommandVersion, Group: testBucket.Group, Settings: 1, Epoch: 1,
		Delete: &metadata.DeleteVersions{Bucket: testBucket.ID, Keys: []metadata.DeleteKey{{Key: "a"}}}}
	if res, err := l.Commit(t.Context(), del); err != nil || !res.Deleted[0].Existed {
		t.Errorf("delete on a full disk = %+v, %v", res, err)
	}
	if !l.Metrics().Full {
		t.Error("Metrics do not say that it is full")
	}
	free.Store(1 << 30)
	if _, err := l.Commit(t.Context(), put(request(1, 3), "b", "x")); err != nil {
		t.Errorf("put after space came free = %v", err)
	}
}

func TestClosedEngineRefuses(t *testing.T) {
	t.Parallel()
	l := open(t, replica.Options{})
	prepare(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Commit(t.Context(), put(request(1, 1), "a", "x")); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Commit = %v, want %v", err, metadata.ErrUnavailable)
	}
	if _, err := l.Drives(t.Context()); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Drives = %v, want %v", err, metadata.ErrUnavailable)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

func TestUnknownCommandsAreNotProposed(t *testing.T) {
	t.Parallel()
	l := open(t, replica.Options{})
	if _, err := l.Commit(t.Context(), &metadata.Command{Kind: 999, Version: 1}); !errors.Is(err, metadata.ErrUnknownKind) {
		t.Errorf("Commit = %v, want %v", err, metadata.ErrUnknownKind)
	}
	c := put(request(1, 1), "a", "x")
	c.Group = 99
	if _, err := l.Commit(t.Context(), c); !errors.Is(err, metadata.ErrInvalidCommand) {
		t.Errorf("Commit to group 99 = %v, want %v", err, metadata.ErrInvalidCommand)
	}
	prepare(t, l) // the engine goes on
}

func TestClockIsChecked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		now  time.Time
		want error
	}{
		"a little behind":     {start.Add(-30 * time.Minute), nil},
		"behind":              {start.Add(-2 * time.Hour), replica.ErrAbsurdClock},
		"after a year's rest": {start.AddDate(1, 0, 0), nil},
		"far ahead":           {start.AddDate(2, 0, 0), replica.ErrAbsurdClock},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs := vfs.NewMem()
			l := open(t, replica.Options{FS: fs})
			prepare(t, l)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			o := replica.Options{FS: fs, Now: fixed(test.now), ReserveBytes: -1}
			again, err := replica.Open("meta", o)
			if !errors.Is(err, test.want) {
				t.Fatalf("Open = %v, want %v", err, test.want)
			}
			if err == nil {
				if err := again.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if e, ok := errors.AsType[*replica.ClockError](err); !ok || !e.Now.Equal(test.now) {
				t.Errorf("error %v does not name the clock", err)
			}
			o.AcceptClock = true
			again, err = replica.Open("meta", o)
			if err != nil {
				t.Fatal(err)
			}
			res, err := again.Commit(t.Context(), put(request(1, 1), "a", "x"))
			if err != nil || res.Order < uint64(start.UnixMicro()) {
				t.Errorf("Commit = %+v, %v; orders must not fall", res, err)
			}
			if err := again.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNewStoreRefusesAClockOfThePast(t *testing.T) {
	t.Parallel()
	_, err := replica.Open("meta", replica.Options{FS: vfs.NewMem(), Now: fixed(time.Unix(0, 0)), ReserveBytes: -1})
	if !errors.Is(err, replica.ErrAbsurdClock) {
		t.Errorf("Open = %v, want %v", err, replica.ErrAbsurdClock)
	}
}

func TestOptionsAreValidated(t *testing.T) {
	t.Parallel()
	_, err := replica.Open("meta", replica.Options{FS: vfs.NewMem(), CacheBytes: -1, QueueLength: -1, MemTableBytes: 2 << 30})
	for _, want := range []string{"CacheBytes", "QueueLength", "MemTableBytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open = %v, want it to name %s", err, want)
		}
	}
}

// A disk that fills up between two looks at its free space: the ballast saves
// the write, and from then on only deletes are taken.
func TestBallastSavesAWrite(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch {
		case op.Kind == errorfs.OpRemove && strings.HasSuffix(op.Path, "ballast"):
			full.Store(false)
		case full.Load() && op.Kind == errorfs.OpFileWrite && strings.HasSuffix(op.Path, ".log"):
			return syscall.ENOSPC
		}
		return nil
	}))
	var free atomic.Uint64
	free.Store(1 << 30)
	var clock atomic.Int64
	l := open(t, replica.Options{
		FS: fs, ReserveBytes: 80 << 20,
		Now: func() time.Time { return start.Add(time.Duration(clock.Load())) },
		DiskUsage: func() (vfs.DiskUsage, error) {
			return vfs.DiskUsage{AvailBytes: free.Load(), TotalBytes: 10 << 30}, nil
		},
	})
	prepare(t, l)
	if _, err := fs.Stat("meta/ballast"); err != nil {
		t.Fatalf("no ballast: %v", err)
	}
	full.Store(true)
	free.Store(0)
	if _, err := l.Commit(t.Context(), put(request(1, 1), "a", "x")); err != nil {
		t.Fatalf("the write that found the disk full: %v", err)
	}
	if _, err := l.Commit(t.Context(), put(request(1, 2), "b", "x")); !errors.Is(err, metadata.ErrMetadataFull) {
		t.Errorf("the next put = %v, want %v", err, metadata.ErrMetadataFull)
	}
	del := &metadata.Command{Kind: metadata.KindDeleteVersions, Version: metadata.CommandVersion, Group: testBucket.Group, Settings: 1, Epoch: 1,
		Delete: &metadata.DeleteVersions{Bucket: testBucket.ID, Keys: []metadata.DeleteKey{{Key: "a"}}}}
	if _, err := l.Commit(t.Context(), del); err != nil {
		t.Errorf("delete = %v", err)
	}
	free.Store(1 << 30)
	clock.Store(int64(time.Second))
	if _, err := l.Commit(t.Context(), put(request(1, 3), "b", "x")); err != nil {
		t.Errorf("put after space came free = %v", err)
	}
	if _, err := fs.Stat("meta/ballast"); err != nil {
		t.Errorf("the ballast was not put back: %v", err)
	}
}

// crashed returns the file system of a store that was cut off: its next start
// has to write what the log holds into a table.
func crashed(t *testing.T, o replica.Options) *vfs.MemFS {
	t.Helper()
	mem := vfs.NewCrashableMem()
	o.FS = mem
	l := open(t, o)
	prepare(t, l)
	if _, err := l.Commit(t.Context(), put(request(1, 1), "a", "x")); err != nil {
		t.Fatal(err)
	}
	return mem.CrashClone(vfs.CrashCloneCfg{})
}

// Pebble tries what it cannot write again for ever, within its Open.
func TestOpenOnAFullDiskFails(t *testing.T) {
	t.Parallel()
	for _, file := range []string{".sst", "MANIFEST-", ".log", ""} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			fs := errorfs.Wrap(crashed(t, replica.Options{ReserveBytes: -1}), errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == errorfs.OpFileWrite && strings.Contains(op.Path, file) || op.Kind == errorfs.OpFilePreallocate && file == ".log" {
					return syscall.ENOSPC
				}
				return nil
			}))
			l, err := replica.Open("meta", replica.Options{FS: fs, Now: fixed(start)})
			if err == nil {
				err = errors.Join(errors.New("opened"), l.Close())
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("Open = %v, want %v", err, syscall.ENOSPC)
			}
		})
	}
}

// TestStoreOnAFullDiskFails: Pebble tries what it cannot write again for ever
// there, too, for the command log as for the state.
func TestStoreOnAFullDiskFails(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"s/log/", "MANIFEST-", ".sst"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewMem()
			if err := replica.CreateStore("s", identity(1), []uint64{1}, storeOptions(mem, 1)); err != nil {
				t.Fatal(err)
			}
			var refused atomic.Int64
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == errorfs.OpFileWrite && strings.Contains(op.Path, file) {
					refused.Add(1)
					return syscall.ENOSPC
				}
				return nil
			}))
			s, err := replica.OpenStore("s", storeOptions(fs, 1))
			if err == nil {
				err = errors.Join(errors.New("opened"), s.Close())
			}
			if !errors.Is(err, syscall.ENOSPC) || refused.Load() == 0 {
				t.Errorf("OpenStore = %v after %d writes, want %v", err, refused.Load(), syscall.ENOSPC)
			}
		})
	}
}

// TestPreallocationNeedsNoSpace: a log for which no space can be set aside is
// written all the same while there is room for what comes.
func TestPreallocationNeedsNoSpace(t *testing.T) {
	t.Parallel()
	var refused atomic.Int64
	fs := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFilePreallocate {
			refused.Add(1)
			return syscall.ENOSPC
		}
		return nil
	}))
	l, err := replica.Open(t.TempDir(), replica.Options{FS: fs, ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	prepare(t, l)
	for i := range 20 {
		if _, err := l.Commit(t.Context(), put(request(1, i), "a", "x")); err != nil {
			t.Fatal(err)
		}
	}
	if refused.Load() == 0 {
		t.Error("nothing was preallocated")
	}
}

func TestBallastSavesAStart(t *testing.T) {
	t.Parallel()
	o := replica.Options{ReserveBytes: 80 << 20, Now: fixed(start), DiskUsage: func() (vfs.DiskUsage, error) {
		return vfs.DiskUsage{AvailBytes: 1 << 30, TotalBytes: 10 << 30}, nil
	}}
	mem := crashed(t, o)
	// Its name is not synced, and was lost with the power.
	ballast, err := mem.Create("meta/ballast", vfs.WriteCategoryUnspecified)
	if err == nil {
		err = ballast.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	var full atomic.Bool
	full.Store(true)
	o.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch {
		case op.Kind == errorfs.OpRemove && strings.HasSuffix(op.Path, "ballast"):
			full.Store(false)
		case full.Load() && op.Kind == errorfs.OpFileWrite:
			return syscall.ENOSPC
		}
		return nil
	}))
	l := open(t, o)
	if full.Load() {
		t.Error("the ballast is still there")
	}
	if _, err := l.Open(t.Context(), testBucket, "a", ""); err != nil {
		t.Errorf("the version committed before = %v", err)
	}
}
