package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
)

// clientGone is told to nobody: the client hung up.
var clientGone = wire.NewError(499, "ClientClosedRequest", "The client closed the connection")

// answers maps the errors of the layers below to S3's codes. This table is the
// only place where the two meet. The first match counts.
var answers = []struct {
	err    error
	answer *wire.Error
}{
	{metadata.ErrNoSuchBucket, wire.NoSuchBucket},
	{metadata.ErrBucketExists, wire.BucketAlreadyOwnedByYou},
	{metadata.ErrBucketNotEmpty, wire.BucketNotEmpty},
	{metadata.ErrTooManyBuckets, wire.TooManyBuckets},
	{metadata.ErrNoSuchKey, wire.NoSuchKey},
	{metadata.ErrNoSuchVersion, wire.NoSuchVersion},
	{metadata.ErrNoSuchUpload, wire.NoSuchUpload},
	{metadata.ErrInvalidPart, wire.InvalidPart},
	{metadata.ErrPreconditionFailed, wire.PreconditionFailed},
	{metadata.ErrConflict, wire.ConditionalRequestConflict},
	{metadata.ErrNoSuchAccessKey, wire.InvalidAccessKeyID},

	{object.ErrNotModified, wire.NotModified},
	{object.ErrInvalidRange, wire.InvalidRange},
	{object.ErrInvalidPartNumber, wire.InvalidPartNumber},
	{object.ErrIncompleteBody, wire.IncompleteBody},
	{object.ErrBodyTooLong, wire.IncompleteBody},
	{object.ErrBadDigest, wire.BadDigest},
	{object.ErrBadChecksum, wire.BadDigest.Say("The checksum you specified did not match the calculated checksum.")},
	{object.ErrChecksumType, wire.InvalidRequest.Say("The checksum type or algorithm does not match that of the upload.")},
	{object.ErrEntityTooSmall, wire.EntityTooSmall},
	{object.ErrEntityTooLarge, wire.EntityTooLarge},
	{object.ErrSizeMismatch, wire.InvalidRequest.Say("The provided 'x-amz-mp-object-size' header value does not match what was computed.")},
	{object.ErrCopyOntoItself, wire.InvalidRequest.Say("This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.")},

	{checksum.ErrValue, wire.InvalidRequest.Say("Value for a x-amz-checksum header is invalid.")},
	{checksum.ErrType, wire.InvalidRequest.Say("The checksum type is not valid for the checksum algorithm.")},

	{object.ErrFull, wire.InsufficientCapacity},
	{metadata.ErrDriveFull, wire.InsufficientCapacity},
	{metadata.ErrMetadataFull, wire.InsufficientCapacity},
	{object.ErrBusy, wire.SlowDown},
	{metadata.ErrOverloaded, wire.SlowDown},
	{metadata.ErrStaleSettings, wire.SlowDown},
	{metadata.ErrFencedEpoch, wire.SlowDown},
	{metadata.ErrSlow, wire.SlowDown},
	{object.ErrUnreadable, wire.ServiceUnavailable},
	{object.ErrUnwritable, wire.ServiceUnavailable},
	{metadata.ErrUnavailable, wire.ServiceUnavailable},
	{metadata.ErrVersionTooLow, wire.ServiceUnavailable}, // until the whole cluster runs the newer program
	{metadata.ErrUnknownOutcome, wire.ServiceUnavailable},
	{metadata.ErrFenced, wire.ServiceUnavailable},
	{metadata.ErrDriveAbsent, wire.ServiceUnavailable},

	{object.ErrDamaged, wire.InternalError}, // never bytes that may be wrong
	{metadata.ErrCorrupt, wire.InternalError},
	{metadata.ErrShardNotFound, wire.InternalError},

	{os.ErrDeadlineExceeded, wire.RequestTimeout},
	{context.DeadlineExceeded, wire.ServiceUnavailable},
	{context.Canceled, clientGone},
}

// s3Error returns the answer to err.
func s3Error(err error) *wire.Error {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e // already an answer, from parsing the request
	}
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return wire.RequestTimeout.Because(err)
		}
		answer := wire.NewError(e.Status, e.Code, e.Message)
		for _, d := range e.Details {
			answer = answer.With(d.Name, d.Value)
		}
		return answer.Because(err)
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return wire.MaxMessageLengthExceeded.Because(err)
	}
	for _, a := range answers {
		if errors.Is(err, a.err) {
			return a.answer.Because(err)
		}
	}
	return wire.InternalError.Because(err)
}

// levelOf says how loud an answer is in the log: what the client did wrong is
// nobody's business but the client's, and what is not offered is asked for all
// the time. Both are counted.
func levelOf(answer *wire.Error) slog.Level {
	switch {
	case answer.Status == http.StatusNotImplemented, answer.Code == wire.SlowDown.Code, answer.Status < 500:
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// conditionHeaders are the headers that can fail a request, by precedence.
var conditionHeaders = []string{
	"If-Match", "If-Unmodified-Since", "If-None-Match",
	"X-Amz-Copy-Source-If-Match", "X-Amz-Copy-Source-If-Unmodified-Since",
	"X-Amz-Copy-Source-If-None-Match", "X-Amz-Copy-Source-If-Modified-Since",
	"X-Amz-If-Match-Last-Modified-Time", "X-Amz-If-Match-Size",
}

// explain adds to an answer what its XML body says about the request.
func (c *call) explain(e *wire.Error) *wire.Error {
	if e.Code == wire.PreconditionFailed.Code {
		for _, name := range conditionHeaders {
			if c.r.Header[name] != nil {
				return e.With("Condition", name)
			}
		}
	}
	if c.op.copies || len(e.Fields) > 0 {
		return e // of a copy we do not know which of the two is meant
	}
	switch e.Code {
	case wire.NoSuchBucket.Code, wire.BucketNotEmpty.Code, wire.BucketAlreadyOwnedByYou.Code,
		wire.NoSuchBucketPolicy.Code, wire.NoSuchLifecycleConfiguration.Code, wire.NoSuchCORSConfiguration.Code,
		wire.NoSuchTagSet.Code, wire.NoSuchWebsiteConfiguration.Code, wire.ObjectLockConfigurationNotFound.Code,
		wire.ReplicationConfigNotFound.Code, wire.SSEConfigurationNotFound.Code,
		wire.NoSuchPublicAccessBlock.Code:
		return e.With("BucketName", c.bucket)
	case wire.NoSuchKey.Code:
		return e.With("Key", c.key)
	case wire.NoSuchVersion.Code:
		return e.With("Key", c.key).With("VersionId", c.query.Get("versionId"))
	case wire.NoSuchUpload.Code:
		return e.With("UploadId", c.query.Get("uploadId"))
	}
	return e
}
