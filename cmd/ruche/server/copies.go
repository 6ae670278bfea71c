package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

const (
	// statusPatience is how long copies may take to say how they are.
	statusPatience = 2 * time.Second
	// behindEntries is how many entries a copy may lack without being called
	// behind.
	behindEntries = 1000
)

// Metadata implements admin.Copies. It asks no group, and answers also while
// the metadata serves nothing.
func (c *control) Metadata(ctx context.Context) (*admin.Metadata, error) {
	list, refused, waits, version := c.p.copies.snapshot()
	m := &admin.Metadata{Engine: admin.EngineLocal, Groups: metadata.DataGroups + 1, Version: version, Latest: metadata.LatestVersion, Devices: deviceCount(c.p.places())}
	if e := c.p.copies.replicated(); e != nil {
		m.Engine = admin.EngineReplicated
		ctx, cancel := context.WithTimeout(ctx, statusPatience)
		defer cancel()
		describeCopies(m, list, refused, e.Status(ctx))
		for i := range m.Stores {
			m.Stores[i].Receiving = receiving(&m.Stores[i])
		}
	} else {
		m.Stores = append(m.Stores, c.localCopy())
	}
	m.Changing = changing(m, waits)
	m.Count()
	return m, nil
}

// changing words what is being changed, "" if nothing is.
func changing(m *admin.Metadata, waits string) string {
	joining, leaving := 0, 0
	for _, s := range m.Stores {
		switch s.Role {
		case admin.CopyLearner:
			joining++
		case admin.CopyLeaving:
			leaving++
		}
	}
	text := ""
	switch {
	case joining > 0 && leaving > 0:
		text = fmt.Sprintf("Copies are being replaced: %d catching up, %d leaving", joining, leaving)
	case joining > 0:
		text = fmt.Sprintf("Copies are being added: %d catching up", joining)
	case leaving > 0:
		text = fmt.Sprintf("Copies are being taken away: %d leaving", leaving)
	case m.Engine == admin.EngineReplicated && len(m.Stores) == 1 && m.Stores[0].Drive == "":
		text = "The metadata is about to do without consensus again"
	default:
		return ""
	}
	if waits != "" {
		text += " (" + waits + ")"
	}
	return text
}

// describeCopies fills in the copies of the list, in its order.
func describeCopies(m *admin.Metadata, list *storeList, refused map[uint64]error, all []replica.StoreStatus) {
	leaders := make([]uint64, m.Groups)
	commits := make([]uint64, m.Groups)
	for _, s := range all {
		for g, status := range s.Groups {
			commits[g] = max(commits[g], status.Commit)
			if status.Leader == s.Replica {
				leaders[g] = s.Replica
			}
		}
	}
	for _, l := range leaders {
		if l == 0 {
			m.Leaderless++
		}
	}
	for i := range list.Stores {
		row := &list.Stores[i]
		if row.State == storeGone {
			continue
		}
		out := admin.CopyState{Store: row.Store.String(), Replica: row.Replica, Path: row.Path, Device: device(filepath.Dir(row.Path)), Role: roleOf(row, all, m.Groups), Health: admin.CopyOK}
		if !row.Drive.IsZero() {
			out.Drive = row.Drive.String()
		}
		out.StillVotes = out.Role == admin.CopyLeaving && stillVotes(row.Replica, all, m.Groups)
		at := slices.IndexFunc(all, func(s replica.StoreStatus) bool { return s.Replica == row.Replica })
		if at < 0 {
			notOpen(&out, row, refused[row.Replica])
		} else {
			describeStore(&out, &all[at], leaders, commits)
		}
		if out.Held = heldFor(row.Replica, all); out.Held != nil && out.Well() {
			out.Reason = out.Held.String()
		}
		m.Stores = append(m.Stores, out)
	}
}

// heldFor says what leaders do not send to a copy yet, nil for nothing.
func heldFor(id uint64, all []replica.StoreStatus) *admin.HeldGroups {
	var h admin.HeldGroups
	for _, s := range all {
		for g, status := range s.Groups {
			for _, held := range status.Held {
				if held.To != id {
					continue
				}
				h.Groups = append(h.Groups, g)
				h.WaitsFor = append(h.WaitsFor, held.WaitsFor...)
				if held.Disputed {
					h.Disputed = append(h.Disputed, g)
				}
			}
		}
	}
	if len(h.Groups) == 0 {
		return nil
	}
	for _, list := range []*[]int{&h.Groups, &h.Disputed} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	slices.Sort(h.WaitsFor)
	h.WaitsFor = slices.Compact(h.WaitsFor)
	return &h
}

// roleOf is voter once a copy is one in all groups.
func roleOf(row *storeRow, all []replica.StoreStatus, groups int) admin.CopyRole {
	if row.State == storeLeaving {
		return admin.CopyLeaving
	}
	for g := range groups {
		conf := newestGroup(all, g)
		if conf == nil {
			break // none runs: it was one, as far as anybody knows
		}
		if !slices.Contains(conf.Voters, row.Replica) {
			return admin.CopyLearner
		}
	}
	return admin.CopyVoter
}

// stillVotes reports whether a copy votes in any group.
func stillVotes(id uint64, all []replica.StoreStatus, groups int) bool {
	for g := range groups {
		if conf := newestGroup(all, g); conf != nil && slices.Contains(conf.Voters, id) {
			return true
		}
	}
	return false
}

// notOpen says why a copy is not open.
func notOpen(out *admin.CopyState, row *storeRow, err error) {
	switch {
	case row.State == storeNew && err == nil:
		out.Health, out.Reason = admin.CopyBehind, "it is being made"
	case err == nil:
		out.Health, out.Reason = admin.CopyFailed, "it was ended"
	case errors.Is(err, errAbsent):
		out.Health, out.Reason = admin.CopyAbsent, strings.TrimPrefix(err.Error(), errAbsent.Error()+": ")
	default:
		out.Health, out.Reason = admin.CopyRefused, err.Error()
	}
}

// describeStore says how a copy is that is open, or was until it failed.
func describeStore(out *admin.CopyState, s *replica.StoreStatus, leaders, commits []uint64) {
	out.FreeBytes, out.CapacityBytes, out.UsedBytes = int64(s.Disk.AvailBytes), int64(s.Disk.TotalBytes), s.UsedBytes
	out.SyncMicros = s.Sync.Microseconds()
	if s.Err != nil {
		out.Health, out.Reason = admin.CopyFailed, s.Err.Error()
		return
	}
	for g, status := range s.Groups {
		if leaders[g] == s.Replica {
			out.Leads++
		}
		out.Lag += commits[g] - min(status.Applied, commits[g])
		if status.Damaged {
			out.Diverged = append(out.Diverged, g)
		}
	}
	switch {
	case len(out.Diverged) > 0:
		out.Health, out.Reason = admin.CopyDiverged, fmt.Sprintf("groups %v", out.Diverged)
	case s.Full:
		out.Health = admin.CopyFull
	case s.Slow:
		out.Health, out.Reason = admin.CopySlow, fmt.Sprintf("writes take %.1f ms", float64(s.Sync.Microseconds())/1000)
	case out.Lag > behindEntries || out.Role == admin.CopyLearner:
		out.Health = admin.CopyBehind
	}
}

// receiving is how much of snapshots lies in a copy's directory for them.
func receiving(c *admin.CopyState) (bytes int64) {
	if c.Health != admin.CopyBehind && c.Health != admin.CopyDiverged {
		return 0
	}
	// What cannot be read is not counted: it may be removed at any moment.
	_ = filepath.WalkDir(filepath.Join(c.Path, "snap"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Size()
		}
		return nil
	})
	return bytes
}

// localCopy is the one copy that there is without consensus.
func (c *control) localCopy() admin.CopyState {
	p := c.p
	figures := p.meta.Metrics()
	out := admin.CopyState{
		Path: p.localPath(), Device: device(p.dir), Role: admin.CopyVoter, Health: admin.CopyOK, Leads: metadata.DataGroups + 1,
		FreeBytes: int64(figures.Disk.AvailBytes), CapacityBytes: int64(figures.Disk.TotalBytes),
	}
	if figures.Pebble != nil {
		out.UsedBytes = int64(figures.Pebble.DiskSpaceUsage())
	}
	if n := figures.Sync.Count; n > 0 {
		out.SyncMicros = int64(figures.Sync.Sum / n / uint64(time.Microsecond))
	}
	switch {
	case figures.Failed:
		out.Health, out.Reason = admin.CopyFailed, "a write failed"
	case figures.Full:
		out.Health = admin.CopyFull
	}
	return out
}
