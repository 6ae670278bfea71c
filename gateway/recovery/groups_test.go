package recovery

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

func drive(n int) topology.DriveID { return topology.DriveID{byte(n)} }

// shard says that a drive holds a shard of group 0.
type shard struct {
	drive, index int
	generation   uint32
}

func TestGroups(t *testing.T) {
	t.Parallel()
	members := func(ids ...int) (out []topology.DriveID) {
		for _, id := range ids {
			out = append(out, drive(id))
		}
		return out
	}
	tests := []struct {
		name   string
		shards []shard
		drives int
		lost   []topology.DriveID
		want   []metadata.Generation
		err    error
	}{
		{
			name: "every shard tells its place", drives: 3,
			shards: []shard{{2, 0, 1}, {3, 1, 1}, {1, 2, 1}},
			want:   []metadata.Generation{{Number: 1, Members: members(2, 3, 1)}},
		},
		{
			name: "a place without shards is on a lost drive", drives: 4,
			shards: []shard{{2, 0, 3}, {1, 2, 2}}, lost: members(4),
			want: []metadata.Generation{{Number: 3, Members: members(2, 4, 1)}},
		},
		{
			name: "or on any other if none is lost", drives: 4,
			shards: []shard{{2, 0, 1}, {1, 2, 1}},
			want:   []metadata.Generation{{Number: 1, Members: members(2, 3, 1)}},
		},
		{
			name: "a place that was moved keeps both drives", drives: 4,
			shards: []shard{{1, 0, 1}, {2, 1, 1}, {3, 2, 1}, {4, 1, 2}},
			want:   []metadata.Generation{{Number: 2, Members: members(1, 2, 3)}, {Number: 3, Members: members(1, 4, 3), Moving: true}},
		},
		{
			name: "a drive in two places at once", drives: 3, err: ErrNoGroups,
			shards: []shard{{1, 0, 1}, {1, 1, 1}, {2, 2, 1}},
		},
		{name: "fewer drives than places", drives: 2, err: ErrNoGroups, shards: []shard{{1, 0, 1}, {2, 1, 1}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := make(holders)
			for _, s := range test.shards {
				h.add(drive(s.drive), &metadata.Record{Type: metadata.RecordShard, Generation: s.generation, Shard: metadata.ShardID{Index: uint8(s.index)}})
			}
			h.add(drive(1), &metadata.Record{Type: metadata.RecordManifest, PG: 70_000}) // tells nothing
			var rows []topology.Drive
			for i := range test.drives {
				rows = append(rows, topology.Drive{ID: drive(i + 1), State: topology.DriveActive})
			}
			got, err := h.table(rows, test.lost, metadata.NewScheme(2, 1), 1)
			if !errors.Is(err, test.err) {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(test.want, got.Groups[0].Generations); diff != "" {
				t.Error(diff)
			}
			if len(got.Groups) != 64 || len(got.Groups[63].Generations) != 1 {
				t.Errorf("%d groups", len(got.Groups))
			}
		})
	}
}
