package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// turnPatience is how long a call of an operator waits until what is being done
// about copies has come to an end.
const turnPatience = 5 * time.Second

// changeCopies carries out what an operator wants of the copies, and returns how
// they are then. What cannot be done while a majority is away is refused at
// once. The change is not given up with the call.
func (c *control) changeCopies(ctx context.Context, change func(context.Context) error) (*admin.Metadata, error) {
	if err := c.majority(ctx); err != nil {
		return nil, err
	}
	turn := c.p.copies.changing
	wait, cancel := context.WithTimeout(ctx, turnPatience)
	defer cancel()
	if !turn.take(wait) {
		return nil, c.busy()
	}
	defer turn.give()
	if err := change(context.WithoutCancel(ctx)); err != nil {
		return nil, unavailable(err)
	}
	return c.Metadata(ctx)
}

// majority refuses what needs a majority of the copies while none is there, and
// says which are missing, and why.
func (c *control) majority(ctx context.Context) error {
	e := c.p.copies.replicated()
	if e == nil {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	lost := quorumLostFor(e.Status(wait))
	if lost == nil {
		return nil
	}
	m, err := c.Metadata(ctx)
	if err != nil {
		return err
	}
	return &admin.Error{Status: http.StatusServiceUnavailable, Code: admin.CodeUnavailable, Message: fmt.Sprintf("too few copies of the metadata are there for a change: %v; %s", lost, missingCopies(m)),
		Remedy: "bring them back and start again: nothing is lost then; only if they are lost for good, stop the server and see \"ruche metadata force --help\""}
}

// missingCopies words which copies are not there, and why.
func missingCopies(m *admin.Metadata) string {
	var out []string
	for i := range m.Stores {
		if s := &m.Stores[i]; !s.Well() {
			out = append(out, fmt.Sprintf("copy %d in %s (%s): %s", s.Replica, s.Where(), s.Health, s.Reason))
		}
	}
	return strings.Join(out, "; ")
}

// busy says that something else is being done about the copies.
func (c *control) busy() error {
	_, _, waits, _ := c.p.copies.snapshot()
	text := "the copies of the metadata are being changed"
	if waits != "" {
		text += ", which waits: " + waits
	}
	return &admin.Error{Status: http.StatusServiceUnavailable, Code: admin.CodeUnavailable, Message: text, Remedy: "see \"ruche metadata status\", and try again when nothing is being changed"}
}

// AddCopy implements admin.Copies.
func (c *control) AddCopy(ctx context.Context, req *admin.AddCopyRequest) (*admin.Metadata, error) {
	k := c.p.copies
	return c.changeCopies(ctx, func(ctx context.Context) error {
		chosen, err := k.placesToAdd(req.Path)
		if err != nil {
			return err
		}
		return k.add(ctx, chosen)
	})
}

// changeCopy is changeCopies for one that an operator names.
func (c *control) changeCopy(ctx context.Context, name string, change func(context.Context, *replica.Replicated, *admin.CopyState) error) (*admin.Metadata, error) {
	return c.changeCopies(ctx, func(ctx context.Context) error {
		e, s, err := c.findCopy(ctx, name)
		if err != nil {
			return err
		}
		return change(ctx, e, s)
	})
}

// RemoveCopy implements admin.Copies.
func (c *control) RemoveCopy(ctx context.Context, req *admin.CopyRequest) (*admin.Metadata, error) {
	k := c.p.copies
	return c.changeCopy(ctx, req.Store, func(ctx context.Context, e *replica.Replicated, s *admin.CopyState) error {
		if err := e.Dismiss(ctx, s.Replica); err != nil && s.Role != admin.CopyLeaving {
			return err
		}
		defer k.nudge()
		return k.note(func(l *storeList) { l.row(s.Replica).State = storeLeaving })
	})
}

// ReplaceCopy implements admin.Copies.
func (c *control) ReplaceCopy(ctx context.Context, req *admin.ReplaceCopyRequest) (*admin.Metadata, error) {
	k := c.p.copies
	return c.changeCopy(ctx, req.Store, func(ctx context.Context, _ *replica.Replicated, s *admin.CopyState) error {
		path := req.Path
		if path == "" {
			path = s.Path
		}
		to, err := k.placeNamed(path)
		if err != nil {
			return err
		}
		if to.path == s.Path && s.Well() {
			return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: fmt.Sprintf("copy %d in %s works", s.Replica, s.Where()), Remedy: "to move it, name another PATH"}
		}
		return k.replace(ctx, s.Replica, to)
	})
}

// TransferCopy implements admin.Copies.
func (c *control) TransferCopy(ctx context.Context, req *admin.CopyRequest) (*admin.Metadata, error) {
	return c.changeCopy(ctx, req.Store, func(ctx context.Context, e *replica.Replicated, s *admin.CopyState) error {
		m, err := c.Metadata(ctx)
		if err != nil {
			return err
		}
		others := successors(m, s.Replica)
		if len(others) == 0 {
			return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "no other copy can lead", Remedy: "see \"ruche metadata status\""}
		}
		if err := e.Rest(ctx, s.Replica, transferRest); err != nil {
			return err
		}
		return transfer(ctx, e, s.Replica, others)
	})
}

// successors are the copies that may lead what one does: those that are well or,
// if none is, those that are only slow.
func successors(m *admin.Metadata, from uint64) (ids []uint64) {
	for _, health := range []admin.CopyHealth{admin.CopyOK, admin.CopySlow} {
		for i := range m.Stores {
			if s := &m.Stores[i]; s.Replica != from && s.Role == admin.CopyVoter && s.Health == health {
				ids = append(ids, s.Replica)
			}
		}
		if len(ids) > 0 {
			break
		}
	}
	return ids
}

// transferRest is how long a copy leads nothing after that was asked for.
const transferRest = 10 * time.Minute

// transferPatience is how long groups may take to change their leaders.
const transferPatience = 10 * time.Second

// transfer has others lead what one copy leads, and waits for that.
func transfer(ctx context.Context, e *replica.Replicated, from uint64, others []uint64) error {
	ctx, cancel := context.WithTimeout(ctx, transferPatience)
	defer cancel()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		left := 0
		for g := range uint32(metadata.DataGroups + 1) {
			if e.Leader(g) != from {
				continue
			}
			left++
			if err := e.TransferLeader(ctx, g, others[int(g)%len(others)]); err != nil && !errors.Is(err, replica.ErrNoLeader) {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return conflict("%d groups are still led by copy %d", left, from)
		case <-ticker.C:
		}
	}
}

// findCopy finds the copy that an operator names.
func (c *control) findCopy(ctx context.Context, name string) (*replica.Replicated, *admin.CopyState, error) {
	e := c.p.copies.replicated()
	if e == nil {
		return nil, nil, notReplicated()
	}
	m, err := c.Metadata(ctx)
	if err != nil {
		return nil, nil, err
	}
	if s := m.Find(name); s != nil {
		return e, s, nil
	}
	return nil, nil, &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound, Message: fmt.Sprintf("no copy of the metadata is called %q", name),
		Remedy: "name one by its number, id or path: see \"ruche metadata status\""}
}

// notReplicated refuses what one copy alone cannot do.
func notReplicated() error {
	return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "there is one copy of the metadata, and it does without consensus", Remedy: "add copies with \"ruche metadata add auto\""}
}

// unavailable words an error of the metadata for the admin API.
func unavailable(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, replica.ErrLastVoter):
		return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "the last copy of the metadata that votes cannot be removed",
			Remedy: "add others first with \"ruche metadata add auto\", or move it with \"ruche metadata replace STORE PATH\""}
	case errors.Is(err, replica.ErrTooFewStores), errors.Is(err, replica.ErrNoStore):
		return conflict("%v", err)
	case errors.Is(err, metadata.ErrUnavailable), errors.Is(err, metadata.ErrOverloaded), errors.Is(err, replica.ErrNoLeader):
		return &admin.Error{Status: http.StatusServiceUnavailable, Code: admin.CodeUnavailable, Message: "the metadata does not answer: " + err.Error(), Remedy: "see \"ruche metadata status\""}
	}
	if e, ok := errors.AsType[*StartError](err); ok {
		return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: fmt.Sprintf("%s: %v", e.What, e.Err), Remedy: e.Remedy}
	}
	return err
}
