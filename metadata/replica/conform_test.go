package replica_test

import (
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// The consumer's interface, which this package must not know otherwise.
var (
	_ object.Metadata = (*replica.Local)(nil)
	_ object.Metadata = (*replica.Replicated)(nil)
)
