package replica

import (
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// A Message is what one store sends another: a message of Raft about one
// group, or a beat about the store. Exactly one of Raft and Beat is set. Both
// are shared with the sender and must not be changed.
type Message struct {
	From, To uint64 // replica ids
	Group    uint32 // of Raft
	Raft     *pb.Message
	Beat     *Beat
}

// A Beat is what stores tell each other once a tick. It takes the place of the
// heartbeats of groups in which nothing happens.
type Beat struct {
	// Session is drawn anew whenever the store is opened.
	Session uint64
	// Version is the highest version of commands that the store knows.
	Version uint16
	// Failed means that the store has stopped for good: its groups need other
	// leaders at once. It is the last beat of a session.
	Failed bool
	// Slow means that the store's log does not keep up, Full that its device
	// has no room for commands that add. Neither leads if another can.
	Slow, Full bool
	// Sync is how long writes of the log take, on average, 0 if nobody knows.
	Sync time.Duration
	// Quiet are the idle groups that the store leads: for them the beat is the
	// leader's heartbeat.
	Quiet []Quiet
	// Wake are groups that the receiver called quiet although the sender has
	// not all of their log.
	Wake []uint32
	// Damaged are groups whose state the sender does not serve.
	Damaged []uint32
	// Hashes are those of the sender's rows at the last comparisons.
	Hashes []GroupHash
}

// Quiet is an idle group: every member has its whole log and knows that all of
// it is committed.
type Quiet struct {
	Group  uint32
	Term   uint64
	Commit uint64
}

// Bytes estimates the memory of a message, for queues with a limit.
func (m *Message) Bytes() int {
	n := 256
	if m.Raft != nil {
		n += len(m.Raft.GetContext())
		for _, e := range m.Raft.GetEntries() {
			n += len(e.GetData()) + 48
		}
	}
	return n
}
