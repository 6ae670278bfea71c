package server

import (
	"context"
	"net/http"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata"
)

// Metadata implements admin.Copies. It asks no group, and answers also while
// the metadata serves nothing.
func (c *control) Metadata(context.Context) (*admin.Metadata, error) {
	m := &admin.Metadata{Engine: admin.EngineLocal, Groups: metadata.DataGroups + 1, Version: 1, Devices: deviceCount(c.p.places())}
	m.Stores = append(m.Stores, c.localCopy())
	m.Count()
	return m, nil
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

// notReplicated refuses what one copy alone cannot do.
func notReplicated() error {
	return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "there is one copy of the metadata, and it does without consensus", Remedy: "add copies with \"ruche metadata add auto\""}
}

// AddCopy implements admin.Copies.
func (c *control) AddCopy(context.Context, *admin.AddCopyRequest) (*admin.Metadata, error) {
	return nil, notReplicated()
}

// ReplaceCopy implements admin.Copies.
func (c *control) ReplaceCopy(context.Context, *admin.ReplaceCopyRequest) (*admin.Metadata, error) {
	return nil, notReplicated()
}

// RemoveCopy implements admin.Copies.
func (c *control) RemoveCopy(context.Context, *admin.CopyRequest) (*admin.Metadata, error) {
	return nil, notReplicated()
}

// TransferCopy implements admin.Copies.
func (c *control) TransferCopy(context.Context, *admin.CopyRequest) (*admin.Metadata, error) {
	return nil, notReplicated()
}
