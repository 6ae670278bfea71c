package replica

import (
	"encoding/binary"
	"fmt"

	"github.com/ruche-storage/ruche/metadata"
)

// entryVersion is the form of entry data that this program writes and reads.
const entryVersion = 1

// Kinds of entry data. The values are stored; never reuse one.
const (
	entryCommand    = 1
	entryComparison = 2 // nothing behind the head
)

// entryHead is the length of what comes before the command: version, kind,
// replica, session and sequence.
const entryHead = 1 + 1 + 8 + 8 + 8

// A Ticket names one proposal: who waits for it.
type Ticket struct {
	Replica uint64 // that led the group as far as the proposer knew, 0 if it knew none
	Session uint64 // of the process that waits
	Seq     uint64
}

// EncodeEntry returns the data of the entry that carries cmd, for
// [Store.Propose].
func EncodeEntry(t Ticket, cmd *metadata.Command) []byte {
	b := make([]byte, 0, entryHead+640+len(inlineOf(cmd)))
	b = append(b, entryVersion, entryCommand)
	b = binary.BigEndian.AppendUint64(b, t.Replica)
	b = binary.BigEndian.AppendUint64(b, t.Session)
	b = binary.BigEndian.AppendUint64(b, t.Seq)
	return cmd.AppendTo(b)
}

// inlineOf returns the body that a command carries.
func inlineOf(cmd *metadata.Command) []byte {
	switch {
	case cmd.CommitVersion != nil:
		return cmd.CommitVersion.Inline
	case cmd.CommitPart != nil:
		return cmd.CommitPart.Inline
	}
	return nil
}

// encodeComparison returns the data of an entry at which members compare their
// rows.
func encodeComparison(replica, session uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{entryVersion, entryComparison}, replica)
	b = binary.BigEndian.AppendUint64(b, session)
	return binary.BigEndian.AppendUint64(b, 0)
}

func isComparison(data []byte) bool {
	return len(data) == entryHead && data[0] == entryVersion && data[1] == entryComparison
}

// decodeEntry undoes EncodeEntry. The command may refer to data, which must not
// change any more.
func decodeEntry(data []byte, cmd *metadata.Command) (Ticket, error) {
	t, err := decodeTicket(data)
	if err != nil {
		return t, err
	}
	if err := cmd.UnmarshalKept(data[entryHead:]); err != nil {
		return t, fmt.Errorf("replica: entry: %w", err)
	}
	return t, nil
}

// decodeTicket decodes what comes before the command.
func decodeTicket(data []byte) (Ticket, error) {
	var t Ticket
	switch {
	case len(data) < entryHead:
		return t, fmt.Errorf("replica: entry of %d bytes, fewer than its head", len(data))
	case data[0] != entryVersion:
		return t, fmt.Errorf("replica: entry of version %d, this program knows %d: start a newer one", data[0], entryVersion)
	case data[1] != entryCommand:
		return t, fmt.Errorf("replica: entry of kind %d is unknown: start a newer program", data[1])
	}
	t.Replica = binary.BigEndian.Uint64(data[2:])
	t.Session = binary.BigEndian.Uint64(data[10:])
	t.Seq = binary.BigEndian.Uint64(data[18:])
	return t, nil
}
