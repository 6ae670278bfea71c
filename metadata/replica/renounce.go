package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// ErrClockBack means that the clock went back while metadata were restored.
var ErrClockBack = errors.New("the clock went back meanwhile: set it and start again")

// Restorable is metadata that may turn out to be older than what drives hold.
// Both engines are.
type Restorable interface {
	Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error)
	Incarnation(ctx context.Context) (metadata.Incarnation, error)
	CommandVersion(ctx context.Context, group uint32) (uint16, error)
	Orders(ctx context.Context, group uint32, keys []metadata.KeyRef) (*metadata.OrdersResult, error)
	Fence(ctx context.Context, group uint32) (metadata.Fence, error)
}

// Renounce begins a new history for metadata that were taken from an earlier
// time: the incarnation rises, at least to least, collection is off until it is
// confirmed, and whatever was committed between that time and now is void: no
// recovery takes it for newer than what is committed from now on. epoch is the
// highest that a drive has seen; the groups may know of a higher one.
//
// Nothing else may be committed meanwhile. Repeating it is harmless. Request
// gives the ids of the commands.
func Renounce(ctx context.Context, e Restorable, now time.Time, least, epoch uint64, request func() (metadata.RequestID, error)) (metadata.Incarnation, error) {
	next, err := renounced(now, epoch, history{
		incarnation: func() (metadata.Incarnation, error) { return e.Incarnation(ctx) },
		version:     func() (uint16, error) { return e.CommandVersion(ctx, metadata.RootGroup) },
		head: func(group uint32) (uint64, error) {
			at, err := e.Orders(ctx, group, nil)
			if err != nil {
				return 0, err
			}
			return at.Order, nil
		},
		fence: func(group uint32) (metadata.Fence, error) { return e.Fence(ctx, group) },
	})
	if err != nil {
		return next, err
	}
	next.Number = max(next.Number, least)
	commit := func(cmd *metadata.Command) (res *metadata.Result, err error) {
		cmd.Version = metadata.CommandVersion
		if cmd.Request, err = request(); err != nil {
			return nil, err
		}
		return e.Commit(ctx, cmd)
	}
	if _, err := commit(&metadata.Command{Kind: metadata.KindPutIncarnation, Incarnation: &next}); err != nil {
		return next, fmt.Errorf("switch collection off: %w", err)
	}
	// From now on no group gives an order that is void.
	for group := range uint32(groupCount) {
		res, err := commit(&metadata.Command{Kind: metadata.KindClock, Group: group, Clock: new(metadata.Clock)})
		if err != nil {
			return next, fmt.Errorf("raise the order of group %d: %w", group, err)
		}
		if next.Voided(group, res.Order+1) {
			return next, fmt.Errorf("raise the order of group %d: %w", group, ErrClockBack)
		}
	}
	return next, nil
}

// history is what is known of metadata from an earlier time.
type history struct {
	incarnation func() (metadata.Incarnation, error)
	version     func() (uint16, error)
	head        func(group uint32) (uint64, error)
	fence       func(group uint32) (metadata.Fence, error)
}

// historyOf is what a store holds.
func historyOf(v state.View) history {
	return history{
		incarnation: v.Incarnation,
		version:     func() (uint16, error) { return v.CommandVersion(metadata.RootGroup) },
		head: func(group uint32) (uint64, error) {
			h, err := v.Head(group)
			return h.Order, err
		},
		fence: v.Fence,
	}
}

// renounced returns the incarnation that ends a history now.
func renounced(now time.Time, epoch uint64, h history) (metadata.Incarnation, error) {
	i, err := h.incarnation()
	if err != nil {
		return i, err
	}
	version, err := h.version()
	if err != nil {
		return i, err
	}
	if version < metadata.ManifestVersion {
		return metadata.Incarnation{Number: i.Number + 1}, nil
	}
	heads := make([]uint64, groupCount)
	for group := range heads {
		if heads[group], err = h.head(uint32(group)); err != nil {
			return i, fmt.Errorf("group %d: %w", group, err)
		}
		fence, err := h.fence(uint32(group))
		if err != nil {
			return i, fmt.Errorf("fence of group %d: %w", group, err)
		}
		epoch = max(epoch, fence.Highest)
	}
	return i.After(heads, uint64(max(now.UnixMicro(), 0)), epoch), nil
}
