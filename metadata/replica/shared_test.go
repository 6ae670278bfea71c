package replica

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
)

// TestSharedCommands: a store takes over what the engine has decoded only if it
// is of this process and of the very same bytes.
func TestSharedCommands(t *testing.T) {
	t.Parallel()
	cmd := &metadata.Command{Kind: metadata.KindCommitVersion, Version: metadata.CommandVersion, Group: 3,
		CommitVersion: &metadata.CommitVersion{Key: "a key", Inline: []byte("a body")}}
	newCall := func(seq uint64, cmd *metadata.Command) *call {
		c := &call{seq: seq, data: EncodeEntry(Ticket{Session: 5, Seq: seq}, cmd)}
		if _, err := decodeEntry(c.data, &c.cmd); err != nil {
			t.Fatal(err)
		}
		return c
	}
	s := &shared{session: 5}
	c := newCall(7, cmd)
	s.put(c)
	ticket := Ticket{Session: 5, Seq: 7}
	if got := s.get(ticket, c.data); got != &c.cmd {
		t.Errorf("get = %p, want the command that was put, %p", got, &c.cmd)
	}
	if got := s.get(ticket, bytes.Clone(c.data)); got != nil {
		t.Error("get found a command for other bytes")
	}
	if got := s.get(Ticket{Session: 6, Seq: 7}, c.data); got != nil {
		t.Error("get found a command of another process")
	}
	if got := (*shared)(nil).get(ticket, c.data); got != nil {
		t.Error("get found a command without an engine")
	}
	s.put(newCall(7+sharedCommands, cmd))
	if got := s.get(ticket, c.data); got != nil {
		t.Error("get found a command that was replaced")
	}
	clock := newCall(8, clockCommand())
	s.put(clock)
	if got := s.get(Ticket{Session: 5, Seq: 8}, clock.data); got != nil {
		t.Error("get found a command of a kind that Apply may keep")
	}
	cmd.CommitVersion.Inline = make([]byte, sharedBytes)
	long := newCall(9, cmd)
	s.put(long)
	if got := s.get(Ticket{Session: 5, Seq: 9}, long.data); got != nil {
		t.Error("get found a command that is too long to be kept")
	}
}

// TestProposalsOfAGroupGoTogether: followers get them in one message, and those
// that are too much together are proposed one by one, so that each is taken or
// refused by itself.
func TestProposalsOfAGroupGoTogether(t *testing.T) {
	t.Parallel()
	r := proposingRunner(t, Limits{UncommittedBytes: 1000})
	attempts := func(n, bytes int) (all []*attempt) {
		for range n {
			all = append(all, &attempt{call: &call{group: 1, data: make([]byte, bytes), again: make(chan struct{}, 1)}})
		}
		return all
	}
	few := attempts(3, 10)
	few[1].state.Store(abandoned) // its caller has gone
	r.propose(few)
	if n := len(r.store.Ready().Append.items[0].entries); n != 2 {
		t.Errorf("%d entries, want those of the 2 whose callers wait", n)
	}
	many := attempts(3, 400)
	r.propose(many)
	for i, a := range many {
		why, refused := a.why.Load(), i == 2
		if (why != nil) != refused || refused && !errors.Is(*why, metadata.ErrOverloaded) {
			t.Errorf("proposal %d: refused: %v, want %v", i, why != nil, refused)
		}
	}
}

// proposingRunner has the store of a group's only voter, which has committed
// what it stored until then.
func proposingRunner(t *testing.T, l Limits) *runner {
	t.Helper()
	o := StoreOptions{Options: Options{FS: vfs.NewMem(), ReserveBytes: -1, MemTableBytes: 256 << 10, CacheBytes: 1 << 20}, Limits: l}
	id := commandlog.Identity{Cluster: [16]byte{1}, Store: [16]byte{2}, Replica: 1}
	if err := CreateStore("store", id, []uint64{1}, o); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore("store", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.Campaign(1)
	for rd := s.Ready(); !rd.Empty(); rd = s.Ready() {
		if w := rd.Append; w != nil {
			if err := s.Append(w); err != nil {
				t.Fatal(err)
			}
			s.Appended(w)
		}
		if w := rd.Apply; w != nil {
			if err := s.Apply(w); err != nil {
				t.Fatal(err)
			}
			s.Applied(w)
		}
	}
	return &runner{store: s}
}
