package replica

import (
	"context"
	"fmt"
	"sync"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

// A Transport carries what stores send each other. Messages may be lost,
// doubled and reordered. All methods may be called concurrently.
type Transport interface {
	// Register says who takes what is sent to a store in this process, until
	// Unregister.
	Register(replica uint64, r Receiver)
	Unregister(replica uint64)

	// Send sends messages of one store. It does not block: what finds no room
	// is dropped, and the sender's Receiver is told that the other store is
	// unreachable.
	Send(messages []Message)

	// Offer offers a snapshot to a store. The error says that the store does
	// not take it now.
	Offer(ctx context.Context, offer Offer) (Reception, error)
}

// A Receiver takes what is sent to one store.
type Receiver interface {
	// Receive takes messages, as many from the first on as there is room for,
	// and returns how many. It does not block.
	Receive(messages []Message) int

	// Unreachable says that messages to another store were lost.
	Unreachable(replica uint64)

	// Offer takes a snapshot, or says why not.
	Offer(ctx context.Context, offer Offer) (Reception, error)
}

// Offer says what a snapshot is and who sends it.
type Offer struct {
	From, To uint64 // replica ids
	Term     uint64 // in which the sender leads the group
	Header   snapshot.Header
}

// A Reception takes the pieces of one snapshot.
type Reception interface {
	// Position says which piece is next. It need not be the first.
	Position() snapshot.Position
	// Add makes a piece durable at the receiver.
	Add(ctx context.Context, p *snapshot.Piece) error
	// Complete says that there are no more pieces. Without an error, the
	// receiver has verified all of it, and told the group's member.
	Complete(ctx context.Context, sum snapshot.Summary) error
	// Close ends the transfer. What was added stays for the next one.
	Close() error
}

// InProcess is the transport between stores of one process.
type InProcess struct {
	mu        sync.RWMutex // guards receivers
	receivers map[uint64]Receiver
}

var _ Transport = (*InProcess)(nil)

// NewInProcess returns a transport without stores.
func NewInProcess() *InProcess {
	return &InProcess{receivers: make(map[uint64]Receiver)}
}

// Register implements [Transport].
func (t *InProcess) Register(replica uint64, r Receiver) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.receivers[replica] = r
}

// Unregister implements [Transport].
func (t *InProcess) Unregister(replica uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.receivers, replica)
}

func (t *InProcess) receiver(replica uint64) Receiver {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.receivers[replica]
}

// Send implements [Transport].
func (t *InProcess) Send(messages []Message) {
	for len(messages) > 0 {
		n := 1
		for n < len(messages) && messages[n].To == messages[0].To {
			n++
		}
		t.send(messages[:n])
		messages = messages[n:]
	}
}

// send sends messages to one store.
func (t *InProcess) send(messages []Message) {
	taken := 0
	if r := t.receiver(messages[0].To); r != nil {
		taken = r.Receive(messages)
	}
	if taken == len(messages) {
		return
	}
	if from := t.receiver(messages[0].From); from != nil {
		from.Unreachable(messages[0].To)
	}
}

// Offer implements [Transport].
func (t *InProcess) Offer(ctx context.Context, offer Offer) (Reception, error) {
	r := t.receiver(offer.To)
	if r == nil {
		return nil, fmt.Errorf("replica: store %d: %w", offer.To, metadata.ErrUnavailable)
	}
	return r.Offer(ctx, offer)
}
