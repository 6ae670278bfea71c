package object

import (
	"context"
	"errors"
	"fmt"

	"github.com/ruche-storage/ruche/metadata"
)

// MaxDeletes is how many keys one call of Delete takes, as S3 allows.
const MaxDeletes = 1000

// Delete deletes up to MaxDeletes keys of one bucket in one command; each key
// is decided on its own. Keys that do not exist are no error.
func (e *Engine) Delete(ctx context.Context, bucketName string, reqs []DeleteRequest) (_ []DeleteResult, err error) {
	defer e.forgetMissing(bucketName, &err)
	if len(reqs) > MaxDeletes {
		return nil, fmt.Errorf("object: %d keys to delete, at most %d", len(reqs), MaxDeletes)
	}
	b, err := e.bucket(ctx, bucketName)
	if err != nil || len(reqs) == 0 {
		return nil, err
	}
	l, err := e.epochs.writer()
	if err != nil {
		return nil, err
	}
	defer l.release()
	keys := make([]metadata.DeleteKey, len(reqs))
	for i, r := range reqs {
		keys[i] = metadata.DeleteKey{Key: r.Key, VersionID: r.VersionID, Conditions: r.Conditions}
	}
	result, err := e.commitIn(ctx, b, l, func(b *bucket) (*metadata.Command, error) {
		return &metadata.Command{Kind: metadata.KindDeleteVersions,
			Delete: &metadata.DeleteVersions{Bucket: b.row.ID, Keys: keys}}, nil
	})
	if err != nil {
		return nil, err
	}
	if len(result.Deleted) != len(reqs) {
		return nil, fmt.Errorf("object: %d answers to %d deletions", len(result.Deleted), len(reqs))
	}
	results := make([]DeleteResult, len(reqs))
	for i, d := range result.Deleted {
		results[i] = DeleteResult{VersionID: reqs[i].VersionID, Err: deleteError(&reqs[i], d.Rejected)}
	}
	return results, nil
}

// deleteError is what a client is told of one key. Deleting what is not there
// succeeds, unless a condition says that it should be.
func deleteError(r *DeleteRequest, rejected error) error {
	gone := errors.Is(rejected, metadata.ErrNoSuchKey) || errors.Is(rejected, metadata.ErrNoSuchVersion)
	if gone && r.Conditions == (DeleteConditions{}) {
		return nil
	}
	return rejected
}
