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

// closeEngine ends the engine. If drives hang, what they use is not closed
// after it in the hope that they return.
func (p *process) closeEngine() error {
	err := p.eng.Close()
	p.hanging = errors.Is(err, object.ErrHanging)
	return err
}

// hangingPatience is how long drives may take to close when some hang.
const hangingPatience = 10 * time.Second

// closeDrives closes all drives, and notes what is durable with that.
func (p *process) closeDrives() error {
	closed := make(chan error, 1)
	go func() { closed <- p.node.Close() }() // outlives the call only if drives hang
	var late <-chan time.Time
	if p.hanging {
		late = time.After(hangingPatience)
	}
	select {
	case err := <-closed:
		if err != nil {
			return err
		}
	case <-late:
		return errors.New("drives hang; the next start looks at what was not finished")
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
