package gateway

import "net/http"

// operation is one call of S3.
type operation struct {
	name   string // AWS's name of the call, for metrics and logs
	log    string // operation field of access logs
	action string // IAM's name of what it needs
	handle func(s *Server, c *call) error
	copies bool // x-amz-copy-source is read and authorised too
}

// route selects an operation: what the path names, the method and the
// sub-resource of the query.
type route struct {
	at     level
	method string
	sub    string
}

const (
	get    = http.MethodGet
	head   = http.MethodHead
	put    = http.MethodPut
	post   = http.MethodPost
	remove = http.MethodDelete
)

// operations is the table of everything that is offered.
var operations = map[route]*operation{
	{service, get, ""}: {name: "ListBuckets", log: "REST.GET.SERVICE", action: "s3:ListAllMyBuckets", handle: (*Server).listBuckets},

	{bucketLevel, put, ""}:          {name: "CreateBucket", log: "REST.PUT.BUCKET", action: "s3:CreateBucket", handle: (*Server).createBucket},
	{bucketLevel, head, ""}:         {name: "HeadBucket", log: "REST.HEAD.BUCKET", action: "s3:ListBucket", handle: (*Server).headBucket},
	{bucketLevel, remove, ""}:       {name: "DeleteBucket", log: "REST.DELETE.BUCKET", action: "s3:DeleteBucket", handle: (*Server).deleteBucket},
	{bucketLevel, get, ""}:          {name: "ListObjects", log: "REST.GET.BUCKET", action: "s3:ListBucket", handle: (*Server).listObjects},
	{bucketLevel, get, "list-type"}: {name: "ListObjectsV2", log: "REST.GET.BUCKET", action: "s3:ListBucket", handle: (*Server).listObjectsV2},
	{bucketLevel, get, "versions"}:  {name: "ListObjectVersions", log: "REST.GET.BUCKETVERSIONS", action: "s3:ListBucketVersions", handle: (*Server).listVersions},
	{bucketLevel, get, "uploads"}:   {name: "ListMultipartUploads", log: "REST.GET.UPLOADS", action: "s3:ListBucketMultipartUploads", handle: (*Server).listUploads},
	{bucketLevel, post, "delete"}:   {name: "DeleteObjects", log: "REST.POST.MULTI_OBJECT_DELETE", action: "s3:DeleteObject", handle: (*Server).deleteObjects},
	{bucketLevel, get, "location"}:  {name: "GetBucketLocation", log: "REST.GET.LOCATION", action: "s3:GetBucketLocation", handle: (*Server).bucketLocation},
	{bucketLevel, get, "acl"}:       {name: "GetBucketAcl", log: "REST.GET.ACL", action: "s3:GetBucketAcl", handle: (*Server).getBucketACL},
	{bucketLevel, put, "acl"}:       {name: "PutBucketAcl", log: "REST.PUT.ACL", action: "s3:PutBucketAcl", handle: (*Server).putBucketACL},

	{bucketLevel, get, "accelerate"}:          unset("GetBucketAccelerateConfiguration", "ACCELERATE", "s3:GetAccelerateConfiguration", acceleration),
	{bucketLevel, get, "analytics"}:           unset("GetBucketAnalyticsConfiguration", "ANALYTICS", "s3:GetAnalyticsConfiguration", analytics),
	{bucketLevel, get, "cors"}:                unset("GetBucketCors", "CORS", "s3:GetBucketCORS", cors),
	{bucketLevel, get, "encryption"}:          unset("GetBucketEncryption", "ENCRYPTION", "s3:GetEncryptionConfiguration", encryption),
	{bucketLevel, get, "intelligent-tiering"}: unset("GetBucketIntelligentTieringConfiguration", "INTELLIGENT_TIERING", "s3:GetIntelligentTieringConfiguration", tiering),
	{bucketLevel, get, "inventory"}:           unset("GetBucketInventoryConfiguration", "INVENTORY", "s3:GetInventoryConfiguration", inventory),
	{bucketLevel, get, "lifecycle"}:           unset("GetBucketLifecycleConfiguration", "LIFECYCLE", "s3:GetLifecycleConfiguration", lifecycle),
	{bucketLevel, get, "logging"}:             unset("GetBucketLogging", "LOGGING_STATUS", "s3:GetBucketLogging", logging),
	{bucketLevel, get, "metrics"}:             unset("GetBucketMetricsConfiguration", "METRICS", "s3:GetMetricsConfiguration", metricsConfig),
	{bucketLevel, get, "notification"}:        unset("GetBucketNotificationConfiguration", "NOTIFICATION", "s3:GetBucketNotification", notification),
	{bucketLevel, get, "object-lock"}:         unset("GetObjectLockConfiguration", "OBJECT_LOCK", "s3:GetBucketObjectLockConfiguration", objectLock),
	{bucketLevel, get, "ownershipControls"}:   unset("GetBucketOwnershipControls", "OWNERSHIP_CONTROLS", "s3:GetBucketOwnershipControls", ownership),
	{bucketLevel, get, "policy"}:              unset("GetBucketPolicy", "BUCKETPOLICY", "s3:GetBucketPolicy", policy),
	{bucketLevel, get, "policyStatus"}:        unset("GetBucketPolicyStatus", "POLICY_STATUS", "s3:GetBucketPolicyStatus", policy),
	{bucketLevel, get, "publicAccessBlock"}:   unset("GetPublicAccessBlock", "PUBLIC_ACCESS_BLOCK", "s3:GetBucketPublicAccessBlock", publicAccess),
	{bucketLevel, get, "replication"}:         unset("GetBucketReplication", "REPLICATION", "s3:GetReplicationConfiguration", replication),
	{bucketLevel, get, "requestPayment"}:      unset("GetBucketRequestPayment", "REQUEST_PAYMENT", "s3:GetBucketRequestPayment", requestPayment),
	{bucketLevel, get, "tagging"}:             unset("GetBucketTagging", "TAGGING", "s3:GetBucketTagging", bucketTagging),
	{bucketLevel, get, "versioning"}:          unset("GetBucketVersioning", "VERSIONING", "s3:GetBucketVersioning", versioning),
	{bucketLevel, get, "website"}:             unset("GetBucketWebsite", "WEBSITE", "s3:GetBucketWebsite", website),

	{bucketLevel, remove, "cors"}:              absent("DeleteBucketCors", "CORS", "s3:PutBucketCORS"),
	{bucketLevel, remove, "encryption"}:        absent("DeleteBucketEncryption", "ENCRYPTION", "s3:PutEncryptionConfiguration"),
	{bucketLevel, remove, "lifecycle"}:         absent("DeleteBucketLifecycle", "LIFECYCLE", "s3:PutLifecycleConfiguration"),
	{bucketLevel, remove, "policy"}:            absent("DeleteBucketPolicy", "BUCKETPOLICY", "s3:DeleteBucketPolicy"),
	{bucketLevel, remove, "publicAccessBlock"}: absent("DeletePublicAccessBlock", "PUBLIC_ACCESS_BLOCK", "s3:PutBucketPublicAccessBlock"),
	{bucketLevel, remove, "replication"}:       absent("DeleteBucketReplication", "REPLICATION", "s3:PutReplicationConfiguration"),
	{bucketLevel, remove, "tagging"}:           absent("DeleteBucketTagging", "TAGGING", "s3:PutBucketTagging"),
	{bucketLevel, remove, "website"}:           absent("DeleteBucketWebsite", "WEBSITE", "s3:DeleteBucketWebsite"),

	{objectLevel, put, ""}:              {name: "PutObject", log: "REST.PUT.OBJECT", action: "s3:PutObject", handle: (*Server).putObject},
	{objectLevel, put, "copy"}:          {name: "CopyObject", log: "REST.COPY.OBJECT", action: "s3:PutObject", handle: (*Server).copyObject, copies: true},
	{objectLevel, get, ""}:              {name: "GetObject", log: "REST.GET.OBJECT", action: "s3:GetObject", handle: (*Server).getObject},
	{objectLevel, head, ""}:             {name: "HeadObject", log: "REST.HEAD.OBJECT", action: "s3:GetObject", handle: (*Server).getObject},
	{objectLevel, remove, ""}:           {name: "DeleteObject", log: "REST.DELETE.OBJECT", action: "s3:DeleteObject", handle: (*Server).deleteObject},
	{objectLevel, get, "attributes"}:    {name: "GetObjectAttributes", log: "REST.GET.OBJECT_ATTRIBUTES", action: "s3:GetObjectAttributes", handle: (*Server).objectAttributes},
	{objectLevel, get, "acl"}:           {name: "GetObjectAcl", log: "REST.GET.ACL", action: "s3:GetObjectAcl", handle: (*Server).getObjectACL},
	{objectLevel, put, "acl"}:           {name: "PutObjectAcl", log: "REST.PUT.ACL", action: "s3:PutObjectAcl", handle: (*Server).putObjectACL},
	{objectLevel, get, "tagging"}:       {name: "GetObjectTagging", log: "REST.GET.OBJECT_TAGGING", action: "s3:GetObjectTagging", handle: (*Server).objectTagging},
	{objectLevel, remove, "tagging"}:    {name: "DeleteObjectTagging", log: "REST.DELETE.OBJECT_TAGGING", action: "s3:DeleteObjectTagging", handle: (*Server).deleteTagging},
	{objectLevel, get, "retention"}:     {name: "GetObjectRetention", log: "REST.GET.OBJECT_RETENTION", action: "s3:GetObjectRetention", handle: (*Server).objectLockState},
	{objectLevel, get, "legal-hold"}:    {name: "GetObjectLegalHold", log: "REST.GET.OBJECT_LEGALHOLD", action: "s3:GetObjectLegalHold", handle: (*Server).objectLockState},
	{objectLevel, post, "uploads"}:      {name: "CreateMultipartUpload", log: "REST.POST.UPLOADS", action: "s3:PutObject", handle: (*Server).createUpload},
	{objectLevel, put, "uploadId"}:      {name: "UploadPart", log: "REST.PUT.PART", action: "s3:PutObject", handle: (*Server).uploadPart},
	{objectLevel, put, "uploadId copy"}: {name: "UploadPartCopy", log: "REST.COPY.PART", action: "s3:PutObject", handle: (*Server).uploadPartCopy, copies: true},
	{objectLevel, post, "uploadId"}:     {name: "CompleteMultipartUpload", log: "REST.POST.UPLOAD", action: "s3:PutObject", handle: (*Server).completeUpload},
	{objectLevel, remove, "uploadId"}:   {name: "AbortMultipartUpload", log: "REST.DELETE.UPLOAD", action: "s3:AbortMultipartUpload", handle: (*Server).abortUpload},
	{objectLevel, get, "uploadId"}:      {name: "ListParts", log: "REST.GET.UPLOAD", action: "s3:ListMultipartUploadParts", handle: (*Server).listParts},
}

// preflight answers OPTIONS, which browsers send unsigned before a request to
// another origin.
var preflight = operation{name: "OptionsPreflight", log: "REST.OPTIONS.PREFLIGHT", handle: (*Server).preflight}

// unknown stands for requests that name no operation.
var unknown = operation{name: "Unknown", log: "REST.UNKNOWN"}

// Reasons of [notOffered], which clients see.
const (
	noBucketConfiguration = "Bucket configurations cannot be changed in this version: they answer as unset."
	noTags                = "Tags are not offered in this version."
	noLock                = "Object lock is not offered in this version."
	noForm                = "POST form uploads are not offered in this version. Use a presigned PUT."
	noSelect              = "S3 Select is not offered."
	noRestore             = "There are no archive storage classes to restore from."
	noTorrent             = "BitTorrent is not offered."
	noRename              = "Renaming is offered by directory buckets only; copy and delete instead."
	noMetadataTables      = "Metadata tables are not offered."
	noDirectorySession    = "Directory buckets are not offered."
	noObjectLambda        = "Object Lambda is not offered."
)

// undeletable are the configurations that S3 has no DELETE for.
var undeletable = set("accelerate", "logging", "notification", "object-lock", "requestPayment", "versioning")

// notOffered are S3's other calls, with the reason why they answer 501.
var notOffered = func() map[route]string {
	m := map[route]string{
		{bucketLevel, post, ""}:                   noForm,
		{bucketLevel, get, "session"}:             noDirectorySession,
		{objectLevel, post, "select"}:             noSelect,
		{objectLevel, post, "restore"}:            noRestore,
		{objectLevel, get, "torrent"}:             noTorrent,
		{objectLevel, put, "renameObject"}:        noRename,
		{objectLevel, put, "tagging"}:             noTags,
		{objectLevel, put, "retention"}:           noLock,
		{objectLevel, put, "legal-hold"}:          noLock,
		{objectLevel, put, "encryption"}:          noBucketConfiguration,
		{service, post, "WriteGetObjectResponse"}: noObjectLambda,
	}
	for _, sub := range []string{"metadataTable", "metadataConfiguration", "metadataInventoryTable", "metadataJournalTable", "abac"} {
		for _, method := range []string{get, put, post, remove} {
			m[route{bucketLevel, method, sub}] = noMetadataTables
		}
	}
	for _, sub := range []string{
		"accelerate", "analytics", "cors", "encryption", "intelligent-tiering", "inventory",
		"lifecycle", "logging", "metrics", "notification", "object-lock", "ownershipControls", "policy",
		"publicAccessBlock", "replication", "requestPayment", "tagging", "versioning", "website",
	} {
		m[route{bucketLevel, put, sub}] = noBucketConfiguration
		if r := (route{bucketLevel, remove, sub}); !undeletable[sub] && operations[r] == nil {
			m[r] = noBucketConfiguration
		}
	}
	return m
}()

// subresources are the query keys that select an operation, by level.
var subresources = func() (names [3]map[string]bool) {
	for i := range names {
		names[i] = make(map[string]bool)
	}
	for r := range operations {
		if r.sub != "" && r.sub != "copy" && r.sub != "uploadId copy" {
			names[r.at][r.sub] = true
		}
	}
	for r := range notOffered {
		if r.sub != "" {
			names[r.at][r.sub] = true
		}
	}
	return names
}()
