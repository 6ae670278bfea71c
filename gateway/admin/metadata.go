package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Engines of the metadata.
const (
	EngineLocal      = "local"      // one copy, no consensus
	EngineReplicated = "replicated" // copies that agree by Raft
)

// Metadata is how the copies of the metadata are.
type Metadata struct {
	Engine string      `json:"engine"`
	Stores []CopyState `json:"stores"`
	// Version is the version of commands that is active in all groups.
	Version uint16 `json:"version"`
	// Latest is the version of commands that the server knows.
	Latest uint16 `json:"latest_version"`
	// Changing says what is being changed, "" for nothing.
	Changing string `json:"changing,omitempty"`
	// Leaderless is how many of the groups have no leader at the moment.
	Leaderless int `json:"leaderless,omitempty"`
	Groups     int `json:"groups"`
	// Devices is on how many devices copies could lie.
	Devices int `json:"devices"`

	// What follows is filled by [Metadata.Count].

	Voters  int `json:"voters"`   // copies that count
	Healthy int `json:"healthy"`  // of them, those that are there and well
	Quorum  int `json:"quorum"`   // of them, those that are needed
	MayLose int `json:"may_lose"` // of them, those that may be lost now
	// Shared says which copies are on one device, a sentence each.
	Shared []string `json:"shared,omitempty"`
}

// CopyRole is what a copy of the metadata is for.
type CopyRole string

// Roles of copies.
const (
	CopyVoter   CopyRole = "voter"   // counts, and may lead
	CopyLearner CopyRole = "learner" // gets everything, and does not count yet
	CopyLeaving CopyRole = "leaving" // is being taken away
)

// CopyHealth is how a copy of the metadata is, in one word.
type CopyHealth string

// How copies are.
const (
	CopyOK       CopyHealth = "ok"
	CopyBehind   CopyHealth = "behind"   // catching up
	CopySlow     CopyHealth = "slow"     // its device does not keep up
	CopyFull     CopyHealth = "full"     // its device has no room
	CopyFailed   CopyHealth = "failed"   // a write failed, or it has stopped itself; it serves nothing
	CopyAbsent   CopyHealth = "absent"   // its device is not there
	CopyRefused  CopyHealth = "refused"  // what lies there is not this copy, or damaged
	CopyDiverged CopyHealth = "diverged" // it differs from the others and is being made anew
)

// CopyState is one copy of the metadata.
type CopyState struct {
	Store   string     `json:"store"`   // id of the directory
	Replica uint64     `json:"replica"` // its number, never used twice
	Path    string     `json:"path"`
	Drive   string     `json:"drive,omitempty"` // id of the drive that carries it
	Device  string     `json:"device,omitempty"`
	Role    CopyRole   `json:"role"`
	Health  CopyHealth `json:"health"`
	Reason  string     `json:"reason,omitempty"` // why it is not ok
	// StillVotes says of a copy that leaves that it counts until the groups have
	// gone on to others.
	StillVotes bool `json:"still_votes,omitempty"`

	Leads         int    `json:"leads"` // groups
	Lag           uint64 `json:"lag"`   // entries that it has not applied yet, all groups together
	Diverged      []int  `json:"diverged,omitempty"`
	FreeBytes     int64  `json:"free_bytes"`
	CapacityBytes int64  `json:"capacity_bytes"` // of its file system
	UsedBytes     int64  `json:"used_bytes"`     // by the copy
	// SyncMicros is how long the last writes took until they were durable, on
	// average.
	SyncMicros int64 `json:"sync_micros"`
	// Held are groups whose rows the copy needs and is not sent yet, nil for none.
	Held *HeldGroups `json:"held,omitempty"`
	// Receiving is how much of a snapshot has come, in bytes; 0 for none.
	Receiving int64 `json:"receiving_bytes,omitempty"`
}

// HeldGroups are groups whose rows are compared before a copy gets them, so that
// wrong ones do not spread.
type HeldGroups struct {
	Groups []int `json:"groups"`
	// WaitsFor are the copies that have not told their rows yet, by number.
	WaitsFor []uint64 `json:"waits_for,omitempty"`
	// Disputed are groups of which the others have different rows, and no
	// majority knows better.
	Disputed []int `json:"disputed,omitempty"`
}

// String words why the copy is not sent the rows.
func (h *HeldGroups) String() string {
	switch {
	case len(h.Disputed) > 0:
		return fmt.Sprintf("the other copies have different rows of groups %v, and no majority knows which are right: none are copied", h.Disputed)
	case len(h.WaitsFor) > 0:
		return fmt.Sprintf("the rows of groups %v are compared before they are copied; copies %v have not answered yet", h.Groups, h.WaitsFor)
	}
	return fmt.Sprintf("the rows of groups %v are compared before they are copied", h.Groups)
}

// Well reports whether a copy counts when others are lost.
func (c *CopyState) Well() bool {
	switch c.Health {
	case CopyOK, CopyBehind, CopySlow, CopyFull:
		return true
	}
	return false
}

// Where is the path by which operators know a copy.
func (c *CopyState) Where() string {
	if c.Drive != "" {
		return strings.TrimSuffix(c.Path, "/meta")
	}
	return c.Path
}

// Count fills what follows from the copies.
func (m *Metadata) Count() {
	m.Voters, m.Healthy, m.Shared = 0, 0, nil
	devices := make(map[string][]string)
	var order []string
	for i := range m.Stores {
		c := &m.Stores[i]
		if c.Role != CopyVoter && !c.StillVotes {
			continue
		}
		m.Voters++
		if c.Well() {
			m.Healthy++
		}
		if c.Device == "" {
			continue
		}
		if devices[c.Device] == nil {
			order = append(order, c.Device)
		}
		devices[c.Device] = append(devices[c.Device], c.Where())
	}
	m.Quorum = m.Voters/2 + 1
	m.MayLose = max(0, m.Healthy-m.Quorum)
	for _, d := range order {
		if names := devices[d]; len(names) > 1 {
			m.Shared = append(m.Shared, fmt.Sprintf("The copies in %s are on one device: its loss takes %d of %d.", strings.Join(names, ", "), len(names), m.Voters))
		}
	}
}

// Find returns the copy that an operator names by its number, its id, its path
// or that of its drive, nil if there is none.
func (m *Metadata) Find(name string) *CopyState {
	i := slices.IndexFunc(m.Stores, func(c CopyState) bool {
		return name == fmt.Sprint(c.Replica) || name == c.Store || name == c.Path || name == c.Where() || name != "" && name == c.Drive
	})
	if i < 0 {
		return nil
	}
	return &m.Stores[i]
}

// Plainly says in sentences how the copies are and what may still be lost.
func (m *Metadata) Plainly() (health Health, lines []string) {
	health = Green
	say := func(h Health, text string) {
		lines = append(lines, text)
		if h == Red || health == Green {
			health = h
		}
	}
	if m.Engine == EngineLocal {
		return health, []string{"There is one copy of the metadata."}
	}
	switch away := m.Voters - m.Healthy; {
	case m.Healthy < m.Quorum:
		say(Red, fmt.Sprintf("The metadata serves nothing: %d of its %d copies are there, and %d are needed.", m.Healthy, m.Voters, m.Quorum))
	case away > 0 && m.MayLose == 0:
		say(Yellow, fmt.Sprintf("You may lose no further copy of the metadata: %d of %d are away, and with one more nothing is served until it is back.", away, m.Voters))
	case away > 0:
		say(Yellow, fmt.Sprintf("You may lose %s more of the metadata (%d of %d are away).", copies(m.MayLose), away, m.Voters))
	case m.Voters == 1:
		say(Yellow, "You may lose no copy of the metadata: there is one.")
	case m.MayLose == 0:
		say(Yellow, fmt.Sprintf("You may lose no copy of the metadata: there are %d, and %d are needed.", m.Voters, m.Quorum))
	default:
		say(Green, fmt.Sprintf("You may lose %s of the metadata.", copies(m.MayLose)))
	}
	if m.Leaderless > 0 && m.Healthy >= m.Quorum {
		say(Yellow, fmt.Sprintf("%s of %d have no leader at the moment; what they hold waits.", things(int64(m.Leaderless), "group"), m.Groups))
	}
	if m.Changing != "" {
		say(Green, m.Changing+".")
	}
	return health, lines
}

// judgeMetadata says how many copies of the metadata may still be lost.
func judgeMetadata(s *Status, say func(Health, string)) {
	if s.Metadata.Engine == EngineLocal {
		return // the warnings say so
	}
	health, lines := s.Metadata.Plainly()
	for i, line := range lines {
		if i > 0 {
			health = Green // said already
		}
		say(health, line)
	}
}

// JudgeUnserved fills Health, Summary and Warnings of a status while the
// metadata serves nothing, and nothing else is known.
func JudgeUnserved(s *Status, stateDir string) {
	s.Health, s.Summary = s.Metadata.Plainly()
	s.Summary = append(s.Summary, "Until then no object can be read or written; what the drives hold is untouched.")
	s.Health, s.Warnings = Red, metadataWarnings(&s.Metadata, Circumstances{StateDir: stateDir})
}

// enoughDevices is how many devices copies need to survive the loss of one.
const enoughDevices = 3

func metadataWarnings(m *Metadata, c Circumstances) (out []Warning) {
	if m.Engine == EngineLocal || m.Voters == 1 {
		where := c.StateDir
		if i := slices.IndexFunc(m.Stores, func(c CopyState) bool { return c.Role == CopyVoter || c.StillVotes }); i >= 0 && m.Engine != EngineLocal {
			where = m.Stores[i].Where()
		}
		w := Warning{"metadata-one-copy", "There is one copy of the metadata, in " + where + "; if it is lost, nothing is served until \"ruche recover\" has made it anew from the drives.",
			"back it up with \"ruche metadata backup FILE\", and keep that directory on a device that is protected, such as RAID 1", Green} // one device can carry no more
		if m.Devices >= enoughDevices {
			w.health, w.Remedy = Yellow, "this machine has "+things(int64(m.Devices), "device")+": run \"ruche metadata add auto\" to have a copy on several"
		}
		out = append(out, w)
	}
	for _, text := range m.Shared {
		w := Warning{"metadata-shared-device", text, "name drives on other devices", Green}
		if m.Devices >= m.Voters {
			w.health, w.Remedy = Yellow, "run \"ruche metadata replace\" with a path on another device"
		}
		out = append(out, w)
	}
	for i := range m.Stores {
		if w, ok := m.warningOf(&m.Stores[i]); ok {
			out = append(out, w)
		}
	}
	return out
}

// Remedy says what helps a copy that is not well; it is empty if nothing is the
// matter with it.
func (m *Metadata) Remedy(c *CopyState) string {
	w, _ := m.warningOf(c)
	return w.Remedy
}

// warningOf says what the matter is with a copy, and what helps, which without
// the others is something else than with them.
func (m *Metadata) warningOf(c *CopyState) (w Warning, ok bool) {
	w, ok = c.warning()
	if ok && m.Healthy < m.Quorum {
		w.Remedy = "bring it back and start again: nothing is lost then; only if it is lost for good, see \"ruche metadata force --help\""
	}
	return w, ok
}

// warning says what the matter is with a copy.
func (c *CopyState) warning() (w Warning, ok bool) {
	what := fmt.Sprintf("Copy %d of the metadata, in %s, ", c.Replica, c.Where())
	because := ""
	if c.Reason != "" {
		because = ": " + c.Reason
	}
	replace := fmt.Sprintf("\"ruche metadata replace %d\"", c.Replica)
	if c.Held != nil && len(c.Held.Disputed) > 0 {
		return Warning{"metadata-copies-contradict", what + "cannot be made: " + c.Held.String() + ".",
			"bring back the copies that are away: they decide; if they are lost, find out which copy is right, and run \"ruche metadata replace\" for the others", Red}, true
	}
	switch c.Health {
	case CopyAbsent:
		return Warning{"metadata-copy-absent", what + "is absent" + because + ".", "mount it and start again, or run " + replace, Yellow}, true
	case CopyFailed:
		return Warning{"metadata-copy-failed", what + "has failed and serves nothing" + because + ".", "check the device; start again if it is sound, else run " + replace, Yellow}, true
	case CopyRefused:
		return Warning{"metadata-copy-refused", what + "is not used" + because + ".", "put the right device there and start again, or run " + replace, Yellow}, true
	case CopyDiverged:
		return Warning{"metadata-copy-diverged", what + "differed from the others; it serves nothing and is being made anew from them" + because + ".",
			"have the memory and the device of this machine checked, and report it: this must not happen", Red}, true
	case CopyFull:
		return Warning{"metadata-copy-full", what + "has no room left on its device.", "free space there, or move it: " + strings.TrimSuffix(replace, "\"") + " PATH\"", Yellow}, true
	case CopySlow:
		return Warning{"metadata-copy-slow", what + "does not keep up with its device" + because + ".", "check the device; the other copies go on without it", Yellow}, true
	}
	return Warning{}, false
}

func copies(n int) string {
	if n == 1 {
		return "1 copy"
	}
	return fmt.Sprintf("%d copies", n)
}

// AddCopyRequest asks for one more copy. An empty Path leaves the choice to the
// server: a device that carries none.
type AddCopyRequest struct {
	Path string `json:"path,omitempty"`
}

// CopyRequest names a copy: see [Metadata.Find].
type CopyRequest struct {
	Store string `json:"store"`
}

// ReplaceCopyRequest asks for a new copy in the place of another. An empty Path
// is the path of that one, if its device is well.
type ReplaceCopyRequest struct {
	Store string `json:"store"`
	Path  string `json:"path,omitempty"`
}

func (s *Server) copyCalls() map[string]call {
	return map[string]call{
		"GET /admin/v1/metadata":           func(r *http.Request, _ []byte) (any, error) { return s.o.Copies.Metadata(r.Context()) },
		"POST /admin/v1/metadata/add":      asked(s.o.Copies.AddCopy),
		"POST /admin/v1/metadata/replace":  asked(s.o.Copies.ReplaceCopy),
		"POST /admin/v1/metadata/remove":   asked(s.o.Copies.RemoveCopy),
		"POST /admin/v1/metadata/transfer": asked(s.o.Copies.TransferCopy),
	}
}

// asked is a call with a request in its body.
func asked[Request, Answer any](f func(context.Context, *Request) (*Answer, error)) call {
	return func(r *http.Request, body []byte) (any, error) {
		req, err := decode[Request](body)
		if err != nil {
			return nil, err
		}
		return f(r.Context(), req)
	}
}
