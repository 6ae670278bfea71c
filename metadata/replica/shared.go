package replica

import (
	"sync/atomic"

	"github.com/ruche-storage/ruche/metadata"
)

const (
	// sharedCommands is how many commands stay decoded for the stores of the
	// process, and sharedBytes how long each is at most.
	sharedCommands = 256
	sharedBytes    = 64 << 10
)

// shared keeps the newest commands of this process as its engine has decoded
// them, so that its stores need not. What it no longer has, or what came by
// another way, a store decodes itself. All methods may be called concurrently.
type shared struct {
	session uint64
	calls   [sharedCommands]atomic.Pointer[call]
}

// put adds a call.
func (s *shared) put(c *call) {
	if len(c.data) <= sharedBytes && sharable(c.cmd.Kind) {
		s.calls[c.seq%sharedCommands].Store(c)
	}
}

// get returns the command of an entry, nil if it must be decoded. Nobody may
// change it: other stores read it at the same time.
func (s *shared) get(t Ticket, data []byte) *metadata.Command {
	if s == nil || t.Session != s.session {
		return nil
	}
	c := s.calls[t.Seq%sharedCommands].Load()
	if c == nil || len(c.data) != len(data) || &c.data[0] != &data[0] {
		return nil // not the very same bytes
	}
	return &c.cmd
}

// sharable names the commands that are many, and of which Apply changes and
// keeps nothing.
func sharable(k metadata.Kind) bool {
	return k == metadata.KindCommitVersion || k == metadata.KindDeleteVersions || k == metadata.KindCommitPart
}
