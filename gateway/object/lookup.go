package object

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/metadata"
)

// verdict is what the metadata say of a record on a drive.
type verdict struct {
	record *metadata.Record
	group  uint32
	found  metadata.Found
	// The rest is of the snapshot that gave the answer. If the bucket is not
	// known any more all groups were asked, and the answers are those that
	// allow least.
	fences    []metadata.Fence
	pgVersion uint64
	clock     uint64
}

func refOf(r *metadata.Record) metadata.LookupRef {
	return metadata.LookupRef{Bucket: r.Bucket, Part: r.Part, ChunkNo: r.ChunkNo, Chunk: r.Shard.Chunk}
}

// lookup asks the metadata for records, each group once. Records of buckets
// that the root group does not know are looked up in all groups if everywhere,
// and else count as not referenced.
func (g *background) lookup(ctx context.Context, records []*metadata.Record, everywhere bool) ([]verdict, error) {
	verdicts := make([]verdict, len(records))
	byGroup := make(map[uint32][]int)
	var lost []int
	for i, r := range records {
		verdicts[i].record = r
		bucket, err := g.bucketRow(ctx, r.Bucket)
		switch {
		case errors.Is(err, metadata.ErrNoSuchBucket):
			lost = append(lost, i)
		case err != nil:
			return nil, fmt.Errorf("object: bucket %s: %w", r.Bucket, err)
		default:
			byGroup[bucket.Group] = append(byGroup[bucket.Group], i)
		}
	}
	for group, of := range byGroup {
		if err := g.ask(ctx, group, verdicts, of); err != nil {
			return nil, err
		}
	}
	if everywhere && len(lost) > 0 {
		for group := range dataGroups {
			if err := g.ask(ctx, group, verdicts, lost); err != nil {
				return nil, err
			}
		}
	}
	return verdicts, nil
}

// ask takes one group's answers into some of the verdicts.
func (g *background) ask(ctx context.Context, group uint32, verdicts []verdict, of []int) error {
	refs := make([]metadata.LookupRef, len(of))
	for at, i := range of {
		refs[at] = refOf(verdicts[i].record)
	}
	answer, err := g.e.meta.Lookup(ctx, group, refs)
	if err != nil {
		return fmt.Errorf("object: look up in group %d: %w", group, err)
	}
	if len(answer.Found) != len(refs) {
		return fmt.Errorf("object: group %d answered %d of %d lookups", group, len(answer.Found), len(refs))
	}
	for at, i := range of {
		v := &verdicts[i]
		if answer.Found[at].Referenced {
			v.found, v.group = answer.Found[at], group
		}
		if v.group == 0 {
			v.group = group
		}
		if len(v.fences) == 0 {
			v.pgVersion, v.clock = answer.PGVersion, answer.ClockMicro
		}
		v.pgVersion = min(v.pgVersion, answer.PGVersion)
		v.clock = min(v.clock, answer.ClockMicro)
		v.fences = append(v.fences, answer.Fence)
	}
	return nil
}

// dead reports whether no command of the record's epoch can be applied any
// more, in any of the groups that were asked: an epoch at or below the highest
// that does not live never lives again.
func (v *verdict) dead() bool {
	epoch := v.record.Epoch
	if epoch == 0 || len(v.fences) == 0 {
		return false // nothing of epoch 0 is ever fenced
	}
	for i := range v.fences {
		f := &v.fences[i]
		if epoch >= f.Floor && (epoch > f.Highest || slices.Contains(f.Living, epoch)) {
			return false
		}
	}
	return true
}
