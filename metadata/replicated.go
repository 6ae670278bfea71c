package metadata

import (
	"fmt"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// LatestVersion is the highest command version that this program knows. A group
// has a version of its own, 1 at first, that [KindClusters] raises once all
// stores know it: see [VersionOf].
const LatestVersion = 2

// since says with which command version kinds came, if not with 1.
var since = map[Kind]uint16{
	KindPutStores:          2,
	KindManifested:         ManifestVersion,
	KindPutManifestMembers: ManifestVersion,
	KindRestoreVersion:     ManifestVersion,
	KindRestoreParts:       ManifestVersion,
	KindRestoreBucket:      ManifestVersion,
	KindRestoreAccessKey:   ManifestVersion,
}

// VersionOf returns the command version with which a kind came. A group of a
// lower version rejects the kind with [ErrVersionTooLow], on every replica, and
// engines do not propose it: a store that does not know it would have to stop.
func VersionOf(k Kind) uint16 { return max(since[k], 1) }

// ClusterVersion is the command version of a group. It never falls.
type ClusterVersion struct{ Version uint16 }

// RaftPosition says which entry of a group's log its rows are the state of. It
// is written in the batch of that entry, by replicated engines only, and is not
// part of what replicas are compared by.
type RaftPosition struct {
	Index, Term uint64
	Conf        []byte // the configuration there, a ConfState of Raft in its encoding

	Unknown []byte
}

// StoreRole says what a store is to be in all groups. The values are stored.
type StoreRole uint8

const (
	// StoreVoter stores count for quorums and may lead.
	StoreVoter StoreRole = 1
	// StoreLearner stores have everything and do not vote.
	StoreLearner StoreRole = 2
	// StoreGone stores are no members any more. Their rows stay, so that
	// their replica ids are never used again.
	StoreGone StoreRole = 3
)

// String names the role in lower case.
func (r StoreRole) String() string {
	switch r {
	case StoreVoter:
		return "voter"
	case StoreLearner:
		return "learner"
	case StoreGone:
		return "gone"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// Store is a copy of the metadata as the cluster wants it.
type Store struct {
	Replica uint64   // its member in all groups; never 0, never used twice
	ID      [16]byte // of the directory, random
	Place   string   // directory, on one machine
	Site    topology.SiteID
	Role    StoreRole

	Unknown string // fields of later versions, kept as they came
}

// StoreTable is all stores there are and ever were. Versions rise.
type StoreTable struct {
	Version uint64
	Stores  []Store

	Unknown string // fields of later versions, kept as they came
}

// Find returns the store of a replica id, nil if there is none.
func (t *StoreTable) Find(replica uint64) *Store {
	for i := range t.Stores {
		if t.Stores[i].Replica == replica {
			return &t.Stores[i]
		}
	}
	return nil
}
