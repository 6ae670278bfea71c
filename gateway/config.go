package gateway

import (
	"net/http"

	"github.com/ruche-storage/ruche/gateway/wire"
)

// configuration answers the GET of a bucket configuration as AWS does while it
// is unset: with an error, or with the document that write writes.
type configuration struct {
	err   *wire.Error
	root  string
	write func(s *Server, e *wire.Encoder)
	byID  bool // with ?id= it is one of many, and never there
}

// unset makes the operation of such a GET.
func unset(name, log, action string, cfg configuration) *operation {
	return &operation{name: name, log: "REST.GET." + log, action: action, handle: func(s *Server, c *call) error {
		if _, err := s.objects.Bucket(c.ctx, c.bucket); err != nil {
			return err
		}
		switch {
		case cfg.byID && c.query.Has("id"):
			return wire.NoSuchConfiguration
		case cfg.err != nil && (cfg.write == nil || !s.opts.Encrypted):
			return cfg.err
		}
		e := c.xml(cfg.root)
		if cfg.write != nil {
			cfg.write(s, e)
		}
		return c.sendXML(e)
	}}
}

// absent makes the operation of the DELETE of a configuration, which succeeds
// without one, as at AWS.
func absent(name, log, action string) *operation {
	return &operation{name: name, log: "REST.DELETE." + log, action: action, handle: func(s *Server, c *call) error {
		if _, err := s.objects.Bucket(c.ctx, c.bucket); err != nil {
			return err
		}
		c.w.WriteHeader(http.StatusNoContent)
		return nil
	}}
}

func emptyList(root string) configuration {
	return configuration{root: root, byID: true, write: func(_ *Server, e *wire.Encoder) { e.Bool("IsTruncated", false) }}
}

// The configurations, as AWS answers those of a bucket where nobody ever set
// any (Amazon S3 API Reference, the pages of the GET calls). The encryption is
// not unset there either: AES256 is what every bucket has.
var (
	acceleration = configuration{root: "AccelerateConfiguration"}
	analytics    = emptyList("ListBucketAnalyticsConfigurationResult")
	cors         = configuration{err: wire.NoSuchCORSConfiguration}
	encryption   = configuration{err: wire.SSEConfigurationNotFound, root: "ServerSideEncryptionConfiguration", write: writeEncryption}
	inventory    = emptyList("ListInventoryConfigurationsResult")
	lifecycle    = configuration{err: wire.NoSuchLifecycleConfiguration}
	logging      = configuration{root: "BucketLoggingStatus"}
	notification = configuration{root: "NotificationConfiguration"}
	objectLock   = configuration{err: wire.ObjectLockConfigurationNotFound}
	policy       = configuration{err: wire.NoSuchBucketPolicy}
	publicAccess = configuration{err: wire.NoSuchPublicAccessBlock}
	replication  = configuration{err: wire.ReplicationConfigNotFound}
	tiering      = emptyList("ListBucketIntelligentTieringConfigurationsOutput")
	versioning   = configuration{root: "VersioningConfiguration"}
	website      = configuration{err: wire.NoSuchWebsiteConfiguration}

	bucketTagging  = configuration{err: wire.NoSuchTagSet}
	metricsConfig  = emptyList("ListMetricsConfigurationsResult")
	ownership      = configuration{root: "OwnershipControls", write: writeOwnership}
	requestPayment = configuration{root: "RequestPaymentConfiguration", write: func(_ *Server, e *wire.Encoder) { e.Text("Payer", "BucketOwner") }}
)

func writeEncryption(_ *Server, e *wire.Encoder) {
	e.Opening("Rule")
	e.Opening("ApplyServerSideEncryptionByDefault")
	e.Text("SSEAlgorithm", "AES256")
	e.Closing("ApplyServerSideEncryptionByDefault")
	e.Bool("BucketKeyEnabled", false)
	e.Closing("Rule")
}

// writeOwnership says what is the case: ACLs are not supported.
func writeOwnership(_ *Server, e *wire.Encoder) {
	e.Opening("Rule")
	e.Text("ObjectOwnership", "BucketOwnerEnforced")
	e.Closing("Rule")
}
