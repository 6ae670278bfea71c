// Package admin is the admin API: its types, the HTTP server that answers it
// and the client that the command line and the console use.
//
//	GET    /admin/v1/status              Status
//	GET    /admin/v1/drives              DriveList
//	POST   /admin/v1/drives/replace      ReplaceRequest -> Drive
//	GET    /admin/v1/scrub               Scrub
//	POST   /admin/v1/scrub               -> Scrub
//	GET    /admin/v1/repair              Repair
//	POST   /admin/v1/collection/resume   -> Repair
//	GET    /admin/v1/keys                KeyList
//	POST   /admin/v1/keys                CreateKeyRequest -> Key, with its secret
//	DELETE /admin/v1/keys/{id}
//	GET    /admin/v1/keyring             Keyring
//	POST   /admin/v1/keyring/backup      -> KeyringBackup
//	POST   /admin/v1/keyring/verify      VerifyRequest -> Keyring
//	GET    /admin/v1/buckets             BucketList
//	PATCH  /admin/v1/buckets/{name}      SetBucketRequest -> Bucket
//	POST   /admin/v1/metadata/backup     -> a backup, as it is
//
// Bodies are JSON. Every call above is signed with an access key by Signature
// V4, in the Authorization header, over its body, and in the region
// [SigningRegion], so that no signature made for S3 is good here. Every access
// key may do everything until policies exist. A refusal is an [Error] as JSON.
//
// Beside the API the same listener answers /health/live, /health/ready and
// /health/cluster without a signature, and /metrics for Prometheus: without
// one on a loopback address, elsewhere with the bearer token the server was
// configured with or with a signature.
//
// The server knows nothing of drives or metadata. What it answers comes from
// small interfaces, one a topic, that the process gives it in [Options].
package admin
