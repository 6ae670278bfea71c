package metadata

import "github.com/ruche-storage/ruche/metadata/topology"

// Generation is one membership of a placement group. Member i keeps shard i.
type Generation struct {
	Number  uint32
	Members []topology.DriveID
	// Moving says that the members that differ from the generation before do
	// not hold everything yet. Readers then try the earlier members too.
	Moving bool
}

// PG is a placement group: an ordered tuple of k+m drives, with the
// generations that are not closed, newest last. A chunk names a group and the
// generation it was born in and is never rewritten by moves.
type PG struct {
	ID          uint32
	Scheme      Scheme
	Generations []Generation

	Unknown string // fields of later versions, kept as they came
}

// Newest returns the newest generation.
func (p *PG) Newest() *Generation { return &p.Generations[len(p.Generations)-1] }

// PGTable is all placement groups. It is kept in the root group and pushed
// into the data groups; a higher Version replaces a lower one.
type PGTable struct {
	Version uint64
	Groups  []PG // in order of ID, which runs from 0

	Unknown string // fields of later versions, kept as they came
}

// DriveTable is every drive the cluster knows.
type DriveTable struct {
	Version uint64
	Drives  []topology.Drive // in order of id

	Unknown string // fields of later versions, kept as they came
}
