package replica

import (
	"sync"

	"github.com/ruche-storage/ruche/metadata"
)

// Bounds of what may wait for a store.
const (
	maxMessages     = 16 << 10
	maxMessageBytes = 64 << 20
	maxCalls        = 1024
)

// mailbox is what waits for the goroutine that decides. All methods may be
// called concurrently.
type mailbox struct {
	wake chan struct{} // gets a value when something has come

	mu        sync.Mutex // guards what follows
	closed    bool
	bytes     int // of messages
	next      mail
	proposals int // limit of next.proposals
}

// mail is what has come since the last look.
type mail struct {
	messages    []Message
	unreachable []uint64
	proposals   []*attempt
	questions   []question
	calls       []func(*Store)
	reports     []report // no more than snapshots that are sent
	appended    *AppendWork
	applied     *ApplyWork
}

// report says how the sending of a snapshot has ended.
type report struct {
	SnapshotRequest
	ok bool
}

// question is a reader who asks for the index of a group.
type question struct {
	group  uint32
	number uint64
}

func newMailbox(proposals int) *mailbox {
	return &mailbox{wake: make(chan struct{}, 1), proposals: proposals}
}

// put adds to the mail unless the box is closed. What add returns false for
// has found no room.
func (b *mailbox) put(add func(m *mail) bool) bool {
	b.mu.Lock()
	ok := !b.closed && add(&b.next)
	b.mu.Unlock()
	if ok {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
	return ok
}

// take returns what has come.
func (b *mailbox) take() mail {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.next
	b.next, b.bytes = mail{}, 0
	return m
}

// close takes nothing more, and returns what nobody will look at.
func (b *mailbox) close() mail {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	return b.take()
}

// receive takes messages, and returns how many it had room for.
func (b *mailbox) receive(messages []Message) (taken int) {
	b.put(func(m *mail) bool {
		for i := range messages {
			n := messages[i].Bytes()
			if len(m.messages)+taken >= maxMessages || len(m.messages)+taken > 0 && b.bytes+n > maxMessageBytes {
				break
			}
			b.bytes += n
			taken++
		}
		m.messages = append(m.messages, messages[:taken]...)
		return taken > 0
	})
	return taken
}

func (b *mailbox) unreachable(id uint64) {
	b.put(func(m *mail) bool {
		for _, u := range m.unreachable {
			if u == id {
				return false
			}
		}
		m.unreachable = append(m.unreachable, id)
		return true
	})
}

func (b *mailbox) propose(a *attempt) error {
	err := ErrNoLeader // the store is gone
	b.put(func(m *mail) bool {
		if len(m.proposals) >= b.proposals {
			err = metadata.ErrOverloaded
			return false
		}
		m.proposals, err = append(m.proposals, a), nil
		return true
	})
	return err
}

func (b *mailbox) ask(q question) bool {
	return b.put(func(m *mail) bool {
		if len(m.questions) >= maxAsked {
			return false
		}
		m.questions = append(m.questions, q)
		return true
	})
}

func (b *mailbox) call(f func(*Store)) bool {
	return b.put(func(m *mail) bool {
		if len(m.calls) >= maxCalls {
			return false
		}
		m.calls = append(m.calls, f)
		return true
	})
}
