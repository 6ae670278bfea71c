package simtest_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/simtest"
)

// A journal is all that a run has shown: which commands lie where in the logs,
// and what clients were told. It sees the cluster from outside and from inside,
// so it can compare the two.
type journal struct {
	proposed map[replica.Ticket]*metadata.Command
	groups   map[uint32]map[uint64]*entry
	records  []*record
	history  simtest.History
	keys     []string // all that there can be

	problems []error
}

// entry is a command that was applied.
type entry struct {
	cmd    *metadata.Command
	ticket replica.Ticket
	result []byte
	first  uint64 // replica that applied it first
	by     int    // how many times it was applied
}

// record is an operation of a client that has ended.
type record struct {
	client    int
	group     uint32
	call, ret int64

	// cmd and res are of a command; a nil res means that its outcome is not
	// known.
	cmd *metadata.Command
	res *metadata.Result

	// index and read are of a read: where it was made, and what says whether
	// the model agrees.
	index uint64
	read  func(m *simtest.Model) error
	saw   string
}

func newJournal(keys []string) *journal {
	return &journal{proposed: make(map[replica.Ticket]*metadata.Command), groups: make(map[uint32]map[uint64]*entry), keys: keys}
}

// problem notes something that must not be.
func (j *journal) problem(format string, args ...any) {
	j.problems = append(j.problems, fmt.Errorf(format, args...))
}

// applied notes that a store has applied a command.
func (j *journal) applied(by uint64, o replica.Outcome) {
	cmd := j.proposed[o.Ticket]
	if cmd == nil {
		j.problem("group %d, position %d: store %d has applied a command that nobody proposed: %+v", o.Group, o.Index, by, o.Ticket)
		return
	}
	log := j.groups[o.Group]
	if log == nil {
		log = make(map[uint64]*entry)
		j.groups[o.Group] = log
	}
	result := o.Result.AppendTo(nil)
	e := log[o.Index]
	switch {
	case e == nil:
		log[o.Index] = &entry{cmd: cmd, ticket: o.Ticket, result: result, first: by, by: 1}
	case e.ticket != o.Ticket:
		j.problem("group %d, position %d: store %d has applied %+v, store %d %+v", o.Group, o.Index, e.first, e.ticket, by, o.Ticket)
	case !bytes.Equal(e.result, result):
		j.problem("group %d, position %d: store %d has applied it with another result than store %d", o.Group, o.Index, by, e.first)
	default:
		e.by++
	}
}

// last returns the position of the last command of a group.
func (j *journal) last(group uint32) (last uint64) {
	for index := range j.groups[group] {
		last = max(last, index)
	}
	return last
}

// check holds the logs against the model, and what clients saw against the
// logs. It returns the model of everything.
func (j *journal) check() (*simtest.Model, error) {
	m := simtest.NewModel()
	for _, group := range slices.Sorted(maps.Keys(j.groups)) {
		at := j.replay(m, group)
		j.order(group, at)
	}
	return m, errors.Join(j.problems[:min(len(j.problems), 5)]...)
}

// replay gives a group's log to the model and returns where each request was
// carried out.
func (j *journal) replay(m *simtest.Model, group uint32) map[metadata.RequestID]uint64 {
	at := make(map[metadata.RequestID]uint64)
	var reads []*record
	for _, r := range j.records {
		if r.group == group && r.read != nil {
			reads = append(reads, r)
		}
	}
	slices.SortStableFunc(reads, func(x, y *record) int { return cmp.Compare(x.index, y.index) })
	read := func(upto uint64) {
		for len(reads) > 0 && reads[0].index < upto {
			if err := reads[0].read(m); err != nil {
				j.problem("group %d: read by client %d at position %d: %w", group, reads[0].client, reads[0].index, err)
			}
			reads = reads[1:]
		}
	}
	log := j.groups[group]
	for _, index := range slices.Sorted(maps.Keys(log)) {
		read(index)
		e := log[index]
		res := m.Apply(e.cmd)
		if got := res.AppendTo(nil); !bytes.Equal(got, e.result) {
			var r metadata.Result
			_ = r.Unmarshal(e.result)
			j.problem("group %d, position %d: %s was answered by %+v, the model's answer is %+v", group, index, kind(e.cmd), r, res)
		}
		if _, found := at[e.cmd.Request]; !found && res.Rejected != metadata.ErrFencedEpoch {
			at[e.cmd.Request] = index
		}
	}
	read(math.MaxUint64)
	return at
}

// order checks that whatever had ended before an operation began lies in front
// of it in the log, and that every acknowledged command is there.
func (j *journal) order(group uint32, at map[metadata.RequestID]uint64) {
	type span struct {
		r     *record
		index uint64
	}
	var all []span
	for _, r := range j.records {
		switch {
		case r.group != group || r.cmd != nil && r.res == nil:
		case r.read != nil:
			all = append(all, span{r, r.index})
		case at[r.cmd.Request] != 0:
			all = append(all, span{r, at[r.cmd.Request]})
		case r.res.Rejected != metadata.ErrFencedEpoch:
			j.problem("group %d: %s of client %d was acknowledged and is in no log", group, kind(r.cmd), r.client)
		}
	}
	ended := slices.Clone(all)
	slices.SortStableFunc(all, func(x, y span) int { return cmp.Compare(x.r.call, y.r.call) })
	slices.SortStableFunc(ended, func(x, y span) int { return cmp.Compare(x.r.ret, y.r.ret) })
	var past span // the highest of what has ended
	for _, s := range all {
		for len(ended) > 0 && ended[0].r.ret < s.r.call {
			if ended[0].index > past.index {
				past = ended[0]
			}
			ended = ended[1:]
		}
		if past.index > s.index || past.index == s.index && past.r != nil && s.r.cmd != nil {
			j.problem("group %d: client %d asked at %d and was answered from position %d, but client %d had been answered from position %d at %d",
				group, s.r.client, s.r.call, s.index, past.r.client, past.index, past.r.ret)
			return
		}
	}
}

// kind names a command for messages.
func kind(c *metadata.Command) string {
	return fmt.Sprintf("a command of kind %d (request %x, epoch %d)", c.Kind, c.Request[:4], c.Epoch)
}

// digest is equal for equal runs.
func (j *journal) digest() [32]byte {
	h := sha256.New()
	for _, group := range slices.Sorted(maps.Keys(j.groups)) {
		for _, index := range slices.Sorted(maps.Keys(j.groups[group])) {
			e := j.groups[group][index]
			fmt.Fprintln(h, group, index, e.ticket, e.result, e.first, e.by)
		}
	}
	for _, r := range j.records {
		fmt.Fprintln(h, r.client, r.group, r.call, r.ret, r.index, r.saw)
		if r.res != nil {
			h.Write(r.res.AppendTo(nil))
		}
	}
	return [32]byte(h.Sum(nil))
}

// did notes a command that has ended; a nil result means that its outcome is
// not known.
func (j *journal) did(client int, call, ret int64, c *metadata.Command, res *metadata.Result) {
	j.records = append(j.records, &record{client: client, group: c.Group, call: call, ret: ret, cmd: c, res: res})
	j.history.Did(client, call, ret, c, res)
}

// read notes a read of a key's current version, nil for none.
func (j *journal) read(client int, call, ret int64, b metadata.BucketRef, key string, index uint64, v *metadata.Version) {
	saw := describe(v)
	j.records = append(j.records, &record{client: client, group: b.Group, call: call, ret: ret, index: index, saw: saw,
		read: func(m *simtest.Model) error { return agree(saw, describe(m.Version(b, key))) }})
	j.history.Read(client, call, ret, b, key, v)
}

func describe(v *metadata.Version) string {
	if v == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s of order %d", v.ETag, v.Order)
}

func agree(saw, want string) error {
	if saw != want {
		return fmt.Errorf("it saw %s, the model has %s", saw, want)
	}
	return nil
}

// listed notes a page of a listing.
func (j *journal) listed(client int, call, ret int64, b metadata.BucketRef, after string, limit int, index uint64, page *metadata.ListResult) {
	names := func(keys []metadata.KeyVersion) string {
		var out []string
		for i := range keys {
			out = append(out, keys[i].Key+" "+describe(&keys[i].Version))
		}
		return fmt.Sprint(out)
	}
	saw := names(page.Keys)
	j.records = append(j.records, &record{client: client, group: b.Group, call: call, ret: ret, index: index, saw: saw,
		read: func(m *simtest.Model) error { return agree(saw, names(m.List(b, "", after, limit))) }})
	last := ""
	if page.Truncated {
		last = page.Next
	}
	j.history.Listed(client, call, ret, b, page.Keys, j.keys, after, last)
}

// readParts notes a read of an upload's parts, nil if it is not in progress.
func (j *journal) readParts(client int, call, ret int64, b metadata.BucketRef, key string, u metadata.UploadID, index uint64, parts []metadata.Part, there bool) {
	ids := func(parts []metadata.Part) []metadata.PartID {
		out := []metadata.PartID{}
		for i := range parts {
			out = append(out, parts[i].ID)
		}
		return out
	}
	saw := fmt.Sprint(ids(parts))
	j.records = append(j.records, &record{client: client, group: b.Group, call: call, ret: ret, index: index, saw: saw,
		read: func(m *simtest.Model) error { return agree(saw, fmt.Sprint(ids(m.Parts(b, u)))) }})
	if there {
		j.history.ReadParts(client, call, ret, b, key, u, ids(parts))
	} else {
		j.history.ReadParts(client, call, ret, b, key, u, nil)
	}
}
