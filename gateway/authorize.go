package gateway

import (
	"context"

	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
)

// Authorizer decides whether a request may be served. It is asked once for
// what a request does, before its body is read, and once more for the source
// of a copy. action is IAM's name, such as "s3:PutObject"; bucket and key are
// empty where the action has none. A nil error allows; any other refuses, as
// AccessDenied unless the error is a *wire.Error.
type Authorizer interface {
	Authorize(ctx context.Context, id *sigv4.Identity, action, bucket, key string) error
}

// SignedOnly is the [Authorizer] that lets every valid access key do
// everything and refuses anonymous requests.
type SignedOnly struct{}

// Authorize implements [Authorizer].
func (SignedOnly) Authorize(_ context.Context, id *sigv4.Identity, _, _, _ string) error {
	if id.Kind == sigv4.Anonymous {
		return wire.AccessDenied
	}
	return nil
}
