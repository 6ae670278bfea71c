package gateway

import (
	"context"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
)

// Objects is the engine as the gateway needs it; [object.Engine] is it. All
// methods may be called concurrently. Errors wrap those of packages object and
// metadata; anything else is an internal error to the client.
type Objects interface {
	CreateBucket(ctx context.Context, name string) error
	DeleteBucket(ctx context.Context, name string) error
	Bucket(ctx context.Context, name string) (object.BucketInfo, error)
	Buckets(ctx context.Context, req *object.BucketsRequest) (*object.BucketsPage, error)

	Put(ctx context.Context, req *object.PutRequest) (*object.PutResult, error)
	// Get opens an object, which the caller closes. With ErrNotModified,
	// ErrPreconditionFailed and ErrInvalidRange it may return both an error
	// and an object that carries the information and no body.
	Get(ctx context.Context, req *object.GetRequest) (*object.Object, error)
	Attributes(ctx context.Context, req *object.AttributesRequest) (*object.AttributesResult, error)
	Copy(ctx context.Context, req *object.CopyRequest) (*object.CopyResult, error)
	// Delete answers in order of reqs; the error is for all of them.
	Delete(ctx context.Context, bucket string, reqs []object.DeleteRequest) ([]object.DeleteResult, error)

	List(ctx context.Context, req *object.ListRequest) (*object.ListPage, error)
	Versions(ctx context.Context, req *object.VersionsRequest) (*object.VersionsPage, error)

	CreateUpload(ctx context.Context, req *object.UploadRequest) (object.UploadInfo, error)
	PutPart(ctx context.Context, req *object.PartRequest) (*object.PutResult, error)
	CopyPart(ctx context.Context, req *object.PartCopyRequest) (*object.CopyResult, error)
	Complete(ctx context.Context, req *object.CompleteRequest) (*object.PutResult, error)
	Abort(ctx context.Context, bucket, key string, upload metadata.UploadID) error
	Uploads(ctx context.Context, req *object.UploadsRequest) (*object.UploadsPage, error)
	Parts(ctx context.Context, req *object.PartsRequest) (*object.PartsPage, error)
}
