package recovery_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/gateway/recovery"
	"github.com/ruche-storage/ruche/metadata"
)

// hanging is a drive that does not answer before it is released, or before it
// has told so many records.
type hanging struct {
	*fakeDrive
	tells   int
	release chan struct{}
}

func (d *hanging) Records(ctx context.Context, typ metadata.RecordType, yield func(*metadata.Record, []byte) error) error {
	n := 0
	return d.fakeDrive.Records(ctx, typ, func(rec *metadata.Record, payload []byte) error {
		if n++; n > d.tells {
			<-d.release
		}
		return yield(rec, payload)
	})
}

// TestTablesOfHangingDrives reads the tables of drives of which some hang: what
// the others tell counts, and what a drive told before it hung.
func TestTablesOfHangingDrives(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.putRoot()
	c.root.PGs.Version = 7
	c.root.Order++
	c.putRoot(3)
	tests := map[string]struct {
		hang    map[int]int // drive -> records it tells before it hangs
		version uint64
		silent  []string
		err     error
	}{
		"none":                        {version: 7},
		"the one with the newest":     {hang: map[int]int{3: 0}, version: 1, silent: []string{"/srv/d3"}},
		"the same, too late":          {hang: map[int]int{3: 2}, version: 7},
		"all but the one":             {hang: map[int]int{0: 0, 1: 0, 2: 0, 4: 0, 5: 1}, version: 7, silent: []string{"/srv/d0", "/srv/d1", "/srv/d2", "/srv/d4"}},
		"all":                         {hang: map[int]int{0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}, err: recovery.ErrSilent},
		"one that has told the first": {hang: map[int]int{3: 1}, version: 1, silent: []string{"/srv/d3"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				drives := c.options().Drives
				release := make(chan struct{})
				for i, tells := range test.hang {
					drives[i].Records = &hanging{c.drives[i], tells, release}
				}
				began := time.Now()
				found, silent, err := recovery.NewestTables(t.Context(), c.id, c.ring, drives, 10*time.Second, slog.New(slog.DiscardHandler))
				if !errors.Is(err, test.err) {
					t.Fatal(err)
				}
				if test.err == nil {
					if diff := cmp.Diff(test.silent, silent); diff != "" || found == nil || found.PGs.Version != test.version {
						t.Errorf("found %+v, silent %v", found, silent)
					}
				}
				if waited := time.Since(began); waited != 0 && test.err == nil && len(test.silent) == 0 || waited > 10*time.Second {
					t.Errorf("waited for %v", waited)
				}
				close(release)
				synctest.Wait()
			})
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := recovery.NewestTables(ctx, c.id, c.ring, c.options().Drives, time.Minute, slog.New(slog.DiscardHandler)); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
	if found, silent, err := recovery.NewestTables(t.Context(), c.id, c.ring, nil, time.Minute, slog.New(slog.DiscardHandler)); found != nil || silent != nil || err != nil {
		t.Errorf("no drives: %v, %v, %v", found, silent, err)
	}
}
