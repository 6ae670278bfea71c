package server

import (
	"slices"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// strangers are the stores that the table wants, the list does not know, and
// that vote in no group: those of a time before the metadata did without
// consensus, which nobody has any more. One that votes is left alone: the list
// may be older than the table.
func strangers(list *storeList, t *metadata.StoreTable, status func() []replica.StoreStatus) (out []uint64) {
	for _, s := range t.Stores {
		known := slices.ContainsFunc(list.Stores, func(row storeRow) bool { return row.Replica == s.Replica })
		if s.Role != metadata.StoreGone && !known {
			out = append(out, s.Replica)
		}
	}
	if len(out) == 0 {
		return nil
	}
	all := status()
	for g := range metadata.DataGroups + 1 {
		conf := newestGroup(all, g)
		if conf == nil || conf.Joint {
			return nil // asked again in the next round
		}
		out = slices.DeleteFunc(out, func(id uint64) bool { return slices.Contains(conf.Voters, id) })
	}
	return out
}
