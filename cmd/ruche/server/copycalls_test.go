package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// changesOf are the calls that change copies.
func changesOf(p *process) map[string]func(context.Context) error {
	one := &admin.CopyRequest{Store: "1"}
	return map[string]func(context.Context) error{
		"add":      func(ctx context.Context) error { _, err := p.ctl.AddCopy(ctx, &admin.AddCopyRequest{}); return err },
		"remove":   func(ctx context.Context) error { _, err := p.ctl.RemoveCopy(ctx, one); return err },
		"transfer": func(ctx context.Context) error { _, err := p.ctl.TransferCopy(ctx, one); return err },
		"replace": func(ctx context.Context) error {
			_, err := p.ctl.ReplaceCopy(ctx, &admin.ReplaceCopyRequest{Store: "1"})
			return err
		},
	}
}

// TestChangesDoNotWaitForEachOther: while something is being done about copies
// that does not come to an end, an operator is told so.
func TestChangesDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	p := opened(t, settings(t, withBucket(t, three), three))
	await(t, p, "three copies", well(3))
	if !p.copies.changing.take(t.Context()) {
		t.Fatal("the turn is not to be had")
	}
	p.copies.mu.Lock()
	p.copies.waits = "a drive hangs"
	p.copies.mu.Unlock()
	for name, change := range changesOf(p) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := change(ctx); err == nil || !strings.Contains(err.Error(), "being changed, which waits: a drive hangs") || !strings.Contains(err.Error(), "try again") {
			t.Errorf("%s during another change: %v", name, err)
		}
		cancel()
	}
	p.copies.changing.give()
	closed(t, p)
}

// copyStatus is what a store says of which each group has these voters.
func copyStatus(id uint64, err error, applied, commit uint64, voters, outgoing []uint64) replica.StoreStatus {
	s := replica.StoreStatus{Replica: id, Err: err}
	for g := range uint32(metadata.DataGroups + 1) {
		s.Groups = append(s.Groups, replica.GroupStatus{Group: g, Applied: applied, Commit: commit, Voters: voters, Joint: outgoing != nil, Outgoing: outgoing})
	}
	if err != nil {
		s.Groups = nil
	}
	return s
}

// TestQuorumLostFor says that a majority is lost only if that is certain.
func TestQuorumLostFor(t *testing.T) {
	t.Parallel()
	three, five := []uint64{1, 2, 3}, []uint64{1, 2, 3, 4, 5}
	stopped, busy := fmt.Errorf("%w: disk", metadata.ErrUnavailable), errors.New("busy")
	for name, c := range map[string]struct {
		all  []replica.StoreStatus
		want string // of the error, "" for none
		open bool   // to be sure of a majority
	}{
		"all":              {[]replica.StoreStatus{copyStatus(1, nil, 9, 9, three, nil), copyStatus(2, nil, 9, 9, three, nil), copyStatus(3, nil, 9, 9, three, nil)}, "", true},
		"two of three":     {[]replica.StoreStatus{copyStatus(1, nil, 9, 9, three, nil), copyStatus(2, nil, 8, 9, three, nil)}, "", true},
		"one of three":     {[]replica.StoreStatus{copyStatus(1, nil, 9, 9, three, nil)}, "1 of 3 copies are there, 2 are needed", false},
		"others stopped":   {[]replica.StoreStatus{copyStatus(1, nil, 9, 9, three, nil), copyStatus(2, stopped, 0, 0, nil, nil), copyStatus(3, stopped, 0, 0, nil, nil)}, "1 of 3", false},
		"one is busy":      {[]replica.StoreStatus{copyStatus(1, nil, 9, 9, three, nil), copyStatus(2, busy, 0, 0, nil, nil)}, "", false},
		"a change is due":  {[]replica.StoreStatus{copyStatus(1, nil, 8, 9, three, nil)}, "", false},
		"none runs":        {[]replica.StoreStatus{copyStatus(1, stopped, 0, 0, nil, nil)}, "no copy runs", false},
		"all are busy":     {[]replica.StoreStatus{copyStatus(1, busy, 0, 0, nil, nil)}, "", false},
		"between two":      {[]replica.StoreStatus{copyStatus(3, nil, 9, 9, []uint64{3, 4, 5}, three), copyStatus(4, nil, 9, 9, []uint64{3, 4, 5}, three)}, "1 of 3", false},
		"both of two":      {[]replica.StoreStatus{copyStatus(2, nil, 9, 9, []uint64{3, 4, 5}, three), copyStatus(3, nil, 9, 9, []uint64{3, 4, 5}, three), copyStatus(4, nil, 9, 9, []uint64{3, 4, 5}, three)}, "", true},
		"newest says more": {[]replica.StoreStatus{copyStatus(1, nil, 9, 9, three, nil), copyStatus(2, nil, 12, 12, five, nil)}, "2 of 5", false},
	} {
		err := quorumLostFor(c.all)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: lost: %v, want %q", name, err, c.want)
		}
		if err := quorumOpen(c.all); (err == nil) != c.open {
			t.Errorf("%s: open: %v, want %t", name, err, c.open)
		}
	}
}

// TestMissingCopies names those that are not there, and why.
func TestMissingCopies(t *testing.T) {
	t.Parallel()
	m := &admin.Metadata{Stores: []admin.CopyState{
		{Replica: 1, Path: "/srv/d1/meta", Drive: "1", Health: admin.CopyAbsent, Reason: "not mounted"},
		{Replica: 2, Path: "/srv/d2/meta", Drive: "2", Health: admin.CopySlow},
		{Replica: 3, Path: "/var/lib/ruche/metadata", Health: admin.CopyFailed, Reason: "disk"},
	}}
	want := []string{"copy 1 in /srv/d1 (absent): not mounted", "copy 3 in /var/lib/ruche/metadata (failed): disk"}
	if got := strings.Split(missingCopies(m), "; "); !slices.Equal(got, want) {
		t.Errorf("missing: %q, want %q", got, want)
	}
}

// TestSuccessors are slow only if no other copy is well.
func TestSuccessors(t *testing.T) {
	t.Parallel()
	m := &admin.Metadata{Stores: []admin.CopyState{
		{Replica: 1, Role: admin.CopyVoter, Health: admin.CopyOK}, {Replica: 2, Role: admin.CopyVoter, Health: admin.CopySlow},
		{Replica: 3, Role: admin.CopyLearner, Health: admin.CopyOK}, {Replica: 4, Role: admin.CopyVoter, Health: admin.CopyFull},
	}}
	if got := successors(m, 2); !slices.Equal(got, []uint64{1}) {
		t.Errorf("successors of 2: %v", got)
	}
	if got := successors(m, 1); !slices.Equal(got, []uint64{2}) {
		t.Errorf("successors of 1: %v", got)
	}
	m.Stores[1].Health = admin.CopyFailed
	if got := successors(m, 1); len(got) > 0 {
		t.Errorf("successors of 1 without another one: %v", got)
	}
}
