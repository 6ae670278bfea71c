package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// ForceOptions are what [Force] is called with. All are required.
type ForceOptions struct {
	Config *config.Config // validated
	Log    *slog.Logger
	Now    func() time.Time
	// Confirm is shown what would be done. An error keeps it from being done.
	Confirm func(*ForcePlan) error
}

// ForcePlan is what there is of the metadata, and which copy is to be the truth.
type ForcePlan struct {
	Cluster string      `json:"cluster"`
	Copies  []ForceCopy `json:"copies"`
	Done    bool        `json:"done"`
	// Replica is the number under which the chosen copy goes on, once Done.
	Replica uint64 `json:"replica,omitempty"`
}

// ForceCopy is one copy of the metadata.
type ForceCopy struct {
	Replica uint64    `json:"replica"`
	Path    string    `json:"path"`
	Missing string    `json:"missing,omitempty"` // why it cannot be used
	Newest  time.Time `json:"newest,omitzero"`   // of its changes
	// Behind is in how many groups another copy that is there knows more.
	Behind int  `json:"behind"`
	Chosen bool `json:"chosen"`
}

// String words the plan, or what was done.
func (p *ForcePlan) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "copies of the metadata of cluster %s:\n", p.Cluster)
	for _, c := range p.Copies {
		fmt.Fprintf(&out, "  %d  %s\n", c.Replica, c.Path)
		switch {
		case c.Missing != "":
			fmt.Fprintf(&out, "     lost: %s\n", c.Missing)
		case c.Newest.IsZero():
			fmt.Fprintln(&out, "     is there; it holds nothing yet")
		default:
			fmt.Fprintf(&out, "     is there; its newest change is of %s\n", c.Newest.UTC().Format("2006-01-02 15:04:05 UTC"))
		}
		if c.Behind > 0 {
			fmt.Fprintf(&out, "     in %d groups another one knows more\n", c.Behind)
		}
		if c.Chosen && !p.Done {
			fmt.Fprintln(&out, "     this one becomes the truth; whatever only others know is lost, and they are never used again")
		}
	}
	if p.Done {
		fmt.Fprintf(&out, "the metadata goes on from one copy, which is number %d now; nothing that was deleted is freed until \"ruche repair resume-collection\"\n", p.Replica)
		fmt.Fprintln(&out, "start the server, then add copies: \"ruche metadata add auto\"")
	}
	return out.String()
}

// Force makes one of the copies of the metadata of a stopped server the truth,
// though no majority is left. It refuses if there is one. What other copies
// there are is set aside.
func Force(ctx context.Context, o ForceOptions) (plan *ForcePlan, err error) {
	f := &forcer{process: newProcess(Options{Config: o.Config, Log: o.Log, Now: o.Now}), o: o}
	defer func() { err = errors.Join(err, f.close()) }()
	for _, step := range []func(context.Context) error{f.openState, f.whose, f.openKeyring, f.look, f.choose, f.carryOut} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := step(ctx); err != nil {
			return nil, startError(f.dir, err)
		}
	}
	return f.plan, nil
}

// forcer is a Force under way.
type forcer struct {
	*process
	o     ForceOptions
	list  *storeList
	found []found
	plan  *ForcePlan
	there []survivor
}

// survivor is a copy that can be opened.
type survivor struct {
	row    *storeRow
	dir    string
	id     uint64 // under which it is at the moment
	status replica.StoreStatus
	newest uint64 // order of its newest change
	back   bool   // it knows less than it did
}

func (f *forcer) whose(context.Context) (err error) {
	if f.id, err = readIdentity(f.dir); err != nil {
		return err
	}
	if f.id == nil {
		return &StartError{MetadataLost, "state directory " + f.dir + " is empty",
			"give --data the state directory of the server; if it is lost, \"ruche recover\" makes it anew from the drives", nil}
	}
	if f.list, err = readStores(f.dir, f.id.Cluster); err != nil {
		return err
	}
	if !f.list.replicated() {
		return &StartError{NothingToForce, "there is one copy of the metadata, which needs no majority", "start the server", nil}
	}
	f.found, err = survey(f.c.DrivePaths())
	return err
}

// look opens every copy that is there, one by one, without letting it run.
func (f *forcer) look(context.Context) error {
	f.plan = &ForcePlan{Cluster: f.id.Cluster.String()}
	newer := f.newestMarker(f.list, f.found) > f.list.Generation
	var stale []survivor
	for i := range f.list.Stores {
		row := &f.list.Stores[i]
		if row.State == storeNew || row.State == storeGone {
			continue
		}
		c := ForceCopy{Replica: row.Replica, Path: row.Path}
		s, err := f.inspect(row)
		switch {
		case err != nil:
			c.Missing = err.Error()
		default:
			c.Path = s.dir
			if s.newest > 0 {
				c.Newest = time.UnixMicro(int64(s.newest)).UTC()
			}
			if (row.Stale || newer && row.Drive.IsZero() || s.back) && row.State != storeForced {
				c.Missing = "it was put back to an earlier time, or has lost the end of its log: it is older than it was"
				stale = append(stale, *s)
				break
			}
			f.there = append(f.there, *s)
		}
		f.plan.Copies = append(f.plan.Copies, c)
	}
	if len(f.there) == 0 { // then it is better than none
		f.there = stale
	}
	return nil
}

func (f *forcer) inspect(row *storeRow) (*survivor, error) {
	dir, at, err := f.at(row)
	if err != nil {
		return nil, err
	}
	o := f.storeOptions(at)
	o.Reached = at.Reached
	s, err := replica.OpenStore(dir, o)
	back := isRolledBack(err)
	if back {
		o.Reached = nil
		s, err = replica.OpenStore(dir, o)
	}
	if err != nil {
		return nil, err
	}
	out := &survivor{row: row, dir: dir, id: s.Identity().Replica, status: s.Status(), back: back}
	out.newest, err = s.Newest()
	return out, errors.Join(err, s.Close())
}

// at is where a copy lies, under whatever number: an attempt that was cut off
// may have changed that.
func (f *forcer) at(row *storeRow) (string, replica.Place, error) {
	dir, err := f.locate(row, f.found)
	if err != nil {
		return "", replica.Place{}, err
	}
	at, err := f.storePlace(row, dir)
	at.Want.Replica = 0
	return dir, at, err
}

// choose takes the copy that knows most: in most groups, and most entries.
func (f *forcer) choose(context.Context) error {
	if len(f.there) == 0 {
		var why []string
		for _, c := range f.plan.Copies {
			why = append(why, fmt.Sprintf("copy %d in %s: %s", c.Replica, c.Path, c.Missing))
		}
		return &StartError{MetadataLost, "no copy of the metadata can be used:\n    " + strings.Join(why, "\n    "),
			"mount the devices of the copies; if all are lost for good, move metadata.json away and run \"ruche recover\"", nil}
	}
	var all []replica.StoreStatus
	for _, s := range f.there {
		all = append(all, s.status)
	}
	begun := slices.IndexFunc(f.there, func(s survivor) bool { return s.row.State == storeForced })
	if err := quorumOpen(all); err == nil && begun < 0 {
		return &StartError{NothingToForce, "a majority of the copies of the metadata is there", "start the server; nothing has to be forced", nil}
	}
	best := f.there[max(begun, 0)]
	if begun < 0 {
		best = f.mostKnowing(all)
	}
	for i := range f.plan.Copies {
		c := &f.plan.Copies[i]
		if at := slices.IndexFunc(f.there, func(s survivor) bool { return s.row.Replica == c.Replica }); at >= 0 {
			c.Behind = behind(&f.there[at].status, all)
			c.Chosen = c.Replica == best.row.Replica
			if c.Chosen {
				c.Missing = "" // it was put back, and is the best there is
			}
		}
	}
	f.there = []survivor{best}
	return f.o.Confirm(f.plan)
}

// mostKnowing is the copy that is behind in the fewest groups.
func (f *forcer) mostKnowing(all []replica.StoreStatus) survivor {
	return slices.MaxFunc(f.there, func(a, b survivor) int {
		return cmp.Or(cmp.Compare(-behind(&a.status, all), -behind(&b.status, all)), cmp.Compare(entries(&a.status), entries(&b.status)))
	})
}

// behind is in how many groups another copy knows more: its log is of a later
// term, or longer.
func behind(s *replica.StoreStatus, all []replica.StoreStatus) (n int) {
	for g := range s.Groups {
		if slices.ContainsFunc(all, func(o replica.StoreStatus) bool {
			return cmp.Or(cmp.Compare(o.Groups[g].LastTerm, s.Groups[g].LastTerm), cmp.Compare(o.Groups[g].Last, s.Groups[g].Last)) > 0
		}) {
			n++
		}
	}
	return n
}

func entries(s *replica.StoreStatus) (n uint64) {
	for _, g := range s.Groups {
		n += g.Last
	}
	return n
}

// carryOut forces the chosen copy, and sets the others aside. It may be cut off
// anywhere and be repeated.
func (f *forcer) carryOut(context.Context) error {
	best := f.there[0]
	if err := f.setState(best.row.Replica, storeForced); err != nil {
		return err
	}
	_, at, err := f.at(best.row)
	if err != nil {
		return err
	}
	number, newest := best.id, f.newestMarker(f.list, f.found)
	forced, err := replica.Force(best.dir, f.storeOptions(at))
	switch {
	case err == nil:
		number = forced.Replica
	case !errors.Is(err, replica.ErrAlone): // else an attempt was cut off behind that
		return f.openingError(best.dir, err)
	}
	for i := range f.list.Stores {
		row := &f.list.Stores[i]
		f.list.Lost = append(f.list.Lost, row.Replica)
		if row.Replica == best.row.Replica {
			continue
		}
		if dir, err := f.locate(row, f.found); err == nil {
			if err := setAside(dir, row.Replica); err != nil {
				return fileError("set aside "+dir, err)
			}
		}
	}
	kept := *best.row
	kept.Replica, kept.Path, kept.State, kept.Stale = number, best.dir, storeReady, false
	f.id.CollectionOff = admin.OffForced
	if err := f.id.save(f.dir); err != nil {
		return err
	}
	f.list.Generation = max(f.list.Generation, newest)
	f.list.Stores, f.list.Next = []storeRow{kept}, max(f.list.Next, number+1)
	if !kept.Drive.IsZero() {
		if err := writeJSON(markerPath(kept.Path), marker{f.id.Cluster, kept.Store, kept.Replica, f.list.Generation}, 0o600); err != nil {
			return fileError("write "+markerPath(kept.Path), err)
		}
	}
	f.plan.Done, f.plan.Replica = true, number
	return f.list.save(f.dir)
}

// setState notes durably how far a copy has come.
func (f *forcer) setState(id uint64, to string) error {
	f.list.row(id).State = to
	return f.list.save(f.dir)
}

// setAside keeps a copy that is not used any more, under another name.
func setAside(dir string, id uint64) error {
	aside := fmt.Sprintf("%s.lost-%d", dir, id)
	if _, err := vfs.Default.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Rename(dir, aside); err != nil {
		return err
	}
	if err := errors.Join(removeReached(dir), removeMarker(dir)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}
