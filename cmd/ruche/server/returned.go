package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// returned has drives that come back from absence look all their shards up
// anew: what was deleted meanwhile was not freed there.
//
// An absent drive is noted in cluster.json before anything is written without
// it. It is taken off once its rows are pending and the drive was closed in
// good order, since its index has no log: after a crash it is done again.
type returned struct {
	work sync.WaitGroup
	some bool // fixed at the start

	mu   sync.Mutex // guards done
	done []topology.DriveID
}

// noteAbsent notes drives of the table that are not open, and begins with those
// that are open again.
func (p *process) noteAbsent(ctx context.Context) error {
	table, err := p.meta.Drives(ctx)
	if err != nil {
		return fmt.Errorf("drive table: %w", err)
	}
	fresh := false
	var back []*node.Drive
	for _, row := range table.Drives {
		d, err := p.node.Drive(row.ID)
		switch {
		case err != nil && row.State != topology.DriveRetired:
			fresh = p.id.missing(row.ID) || fresh
		case err == nil && slices.Contains(p.id.Absent, row.ID):
			back = append(back, d)
		}
	}
	if fresh {
		if err := p.id.save(p.dir); err != nil {
			return err
		}
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.onClose("drives that returned", func() error {
		cancel()
		if !p.hanging {
			p.back.work.Wait()
		}
		return nil
	})
	p.back.some = len(back) > 0
	for _, d := range back {
		p.back.work.Go(func() { p.lookUpAnew(run, d) })
	}
	return nil
}

// lookUpAnew makes all shards of a drive pending.
func (p *process) lookUpAnew(ctx context.Context, d *node.Drive) {
	if err := d.Suspect(ctx, nil); err != nil {
		p.Log.Error("shards of a drive that returned are not looked up before the next start", "path", d.Path(), "err", err)
		return
	}
	p.Log.Info("drive has returned; its shards are looked up anew", "path", d.Path(), "drive", d.ID().String())
	p.back.mu.Lock()
	defer p.back.mu.Unlock()
	p.back.done = append(p.back.done, d.ID())
}

// errHangs means that a drive holds up the end of the process. What it was asked
// last may be done or not, as after a crash: the next start looks at it. So it is
// said, and does not make the end a failure.
var errHangs = errors.New("the next start looks at what was not finished")

// closeEngine ends the engine. If drives hang, what they use is not closed
// after it in the hope that they return.
func (p *process) closeEngine() error {
	err := p.eng.Close()
	hangs, ok := errors.AsType[*object.HangingError](err)
	if !ok {
		return err
	}
	p.hanging = true
	var paths []string
	for _, d := range hangs.Drives {
		paths = append(paths, p.lastPath(d))
	}
	return fmt.Errorf("drives %v have not answered for %v: %w", paths, hangs.After, errHangs)
}

const (
	// closingPatience is how long drives may take to close: they write out what
	// their indexes have in memory.
	closingPatience = 30 * time.Second
	// hangingPatience is that when some are known to hang.
	hangingPatience = 10 * time.Second
)

// closeDrives closes all drives, and notes what is durable with that.
func (p *process) closeDrives() error {
	closed := make(chan error, 1)
	go func() { closed <- p.node.Close() }() // outlives the call only if drives hang
	patience := closingPatience
	if p.hanging {
		patience = hangingPatience
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case err := <-closed:
		if err != nil {
			return err
		}
	case <-late.C:
		return fmt.Errorf("drives %v are not closed after %v: %w", p.node.Unclosed(), patience, errHangs)
	}
	p.back.mu.Lock()
	done := p.back.done
	p.back.mu.Unlock()
	if len(done) == 0 {
		return nil
	}
	return p.note(func(id *identity) {
		id.Absent = slices.DeleteFunc(id.Absent, func(d topology.DriveID) bool { return slices.Contains(done, d) })
	})
}
