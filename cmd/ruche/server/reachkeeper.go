package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/metadata/replica"
)

const (
	// reachedEvery is how far the file beside a copy may be behind it.
	reachedEvery = 25 * time.Millisecond
	// farEvery is that of the files on drives about the copy in the state
	// directory, and how long what was written may be without being synced.
	farEvery = time.Second
)

// reachKeeper writes how far the copies of the metadata have come. Nobody waits
// for it: each file has a writer of its own, and one that hangs is passed over.
type reachKeeper struct {
	p           *process
	incarnation uint64 // of the one copy without consensus
	files       map[string]*reachFile
	work        sync.WaitGroup
}

// reachFile is one file and its writer.
type reachFile struct {
	name   string
	beside string // what is there as long as the device is
	every  time.Duration
	busy   chan struct{} // has a token while the writer runs

	// What follows belongs to whoever put the token in.
	last    reached
	written time.Time
	synced  time.Time
	failed  bool // and that was said
}

// keepReached begins to write how far the copies have come, now that it is known
// whether they have lost something.
func (p *process) keepReached(ctx context.Context) error {
	i, err := p.meta.Incarnation(ctx)
	if err != nil {
		return err
	}
	k := &reachKeeper{p: p, incarnation: i.Number, files: make(map[string]*reachFile)}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var loop sync.WaitGroup
	p.onClose("how far the copies of the metadata have come", func() error {
		cancel()
		loop.Wait()
		return k.end()
	})
	loop.Go(func() {
		ticker := time.NewTicker(reachedEvery)
		defer ticker.Stop()
		for {
			select {
			case <-run.Done():
				return
			case <-ticker.C:
				k.look()
			}
		}
	})
	return nil
}

// end writes once more and waits for the writers, but not for those that hang.
func (k *reachKeeper) end() error {
	k.look()
	done := make(chan struct{})
	go func() { // outlives the call only if drives hang
		defer close(done)
		k.work.Wait()
	}()
	late := time.NewTimer(markPatience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		return fmt.Errorf("drives hang: %w", errHangs)
	}
	return nil
}

// look has everything written that has changed.
func (k *reachKeeper) look() {
	want := func(name, beside string, every time.Duration, r reached) {
		f := k.files[name]
		if f == nil {
			f = &reachFile{name: name, beside: beside, every: every, busy: make(chan struct{}, 1)}
			k.files[name] = f
		}
		k.offer(f, r)
	}
	switch e := k.p.meta.Engine().(type) {
	case *replica.Local:
		r := reached{Format: reachedFormat, Cluster: k.p.id.Cluster, Incarnation: k.incarnation, Positions: e.Positions()}
		want(reachedPath(k.p.localPath()), k.p.localPath(), 0, r)
		for _, d := range k.p.node.Drives() {
			want(farReached(d.Path()), filepath.Join(d.Path(), indexName), farEvery, r)
		}
	case *replica.Replicated:
		list, _, _, _ := k.p.copies.snapshot()
		for _, s := range e.Positions() {
			if row := list.row(s.Replica); row != nil {
				want(reachedPath(s.Dir), s.Dir, 0, reached{Format: reachedFormat, Cluster: k.p.id.Cluster, Store: row.Store, Replica: s.Replica, Positions: s.Positions})
			}
		}
	}
}

// offer has a file say something, unless it does or its writer is busy.
func (k *reachKeeper) offer(f *reachFile, r reached) {
	select {
	case f.busy <- struct{}{}:
	default:
		return
	}
	now := k.p.Now()
	changed := !f.last.same(&r) && now.Sub(f.written) >= f.every
	unsynced := f.written.After(f.synced) && now.Sub(f.synced) >= farEvery
	if !changed && !unsynced {
		<-f.busy
		return
	}
	k.work.Go(func() {
		defer func() { <-f.busy }()
		err := f.write(r, now)
		if err != nil && !f.failed {
			k.p.Log.Error("how far a copy of the metadata has come is not written", "path", f.name, "err", err)
		}
		f.failed = err != nil
	})
}

// write writes the slot that is not the newest, and syncs from time to time. The
// file is not kept open: it may be replaced, and its device unmounted.
func (f *reachFile) write(r reached, now time.Time) (err error) {
	f.written = now
	if _, err := os.Stat(f.beside); err != nil {
		return err // of a drive that is not mounted any more only the directory is left
	}
	if f.last.Sequence == 0 {
		if text, err := readBounded(f.name, 2*slotBytes); err == nil {
			if was := parseReached(text); was != nil {
				f.last.Sequence = was.Sequence
			}
		}
	}
	r.Sequence = f.last.Sequence + 1
	text, err := r.slot()
	if err != nil {
		return err
	}
	flags := os.O_WRONLY
	if f.synced.IsZero() || f.last.Replica != r.Replica {
		flags |= os.O_CREATE // later it is only missed if somebody takes everything away
	}
	file, err := os.OpenFile(f.name, flags, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.WriteAt(text, int64(r.Sequence%2)*slotBytes); err != nil {
		return err
	}
	f.last = r
	if now.Sub(f.synced) >= farEvery {
		f.synced = now
		return file.Sync()
	}
	return nil
}
