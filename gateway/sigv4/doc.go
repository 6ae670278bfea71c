// Package sigv4 verifies and makes AWS Signature Version 4 for S3, and reads
// the request bodies that such signatures cover.
//
// A [Verifier] looks at the head of a request and says who sent it: nobody
// (anonymous), a key in the Authorization header, or a key in a presigned
// URL. The [Identity] it returns also knows how the body is protected, and
// [Identity.Body] wraps the body accordingly:
//
//	x-amz-content-sha256                          body is
//	(hex SHA-256)                                 hashed, compared at the end
//	UNSIGNED-PAYLOAD                              passed through, length checked
//	STREAMING-AWS4-HMAC-SHA256-PAYLOAD            aws-chunked, each chunk signed
//	STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER    the same and a signed trailer
//	STREAMING-UNSIGNED-PAYLOAD-TRAILER            aws-chunked, perhaps a trailer
//
// In each form the last bytes are handed out before the check of the whole is
// made, so a caller must discard what it read when Read ends with anything but
// io.EOF. Framing is never handed out.
//
// [Signer] is the other half, for our own client and for tests: headers,
// presigned URLs and streaming bodies.
//
// The package is pure: it opens no connection, has no clock (the time of the
// server is an argument), keeps no log, and imports no other package of this
// module. Who may do what is not decided here, nor is the POST form's policy;
// [DeriveKey] gives the signing key for that.
//
// Sources: AWS's Amazon S3 API Reference, "Authenticating Requests (AWS
// Signature Version 4)" and its pages on single chunk, multiple chunks,
// trailing headers and query parameters.
package sigv4
