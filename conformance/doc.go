// Package conformance compares an S3 server with S3.
//
// Its tests are a black box: they know an endpoint, two keys and a region, and
// nothing of the program behind it. They import no other package of this
// module, so a mistake that the server's own packages share with their tests
// cannot hide here. Where client libraries hide the wire the tests speak HTTP
// themselves, down to raw TCP, with a signer of their own that was written
// from the public description of Signature Version 4 and can also sign
// wrongly. The reference is AWS's API documentation, and AWS's behaviour where
// the two differ.
//
// The endpoint comes from the environment:
//
//	S3_ENDPOINT    base address such as https://s3.example.org
//	S3_ACCESS_KEY  access key id
//	S3_SECRET_KEY  secret key
//	S3_REGION      region, fr-metro if not set
//	S3_CA_FILE     PEM file of the authorities to trust for https
//	S3_DOMAIN      domain for virtual-host style requests; not set: not tested
//
// Without S3_ENDPOINT, RUCHE_BIN names a ruche binary: [Start] then runs one
// server over plain HTTP and one over TLS in temporary directories, and stops
// them in the end. With neither, every test is skipped, or fails if
// RUCHE_REQUIRE is 1.
//
// Each test makes buckets of its own, removes them again, and runs in parallel
// with the others. Package conformance/clients runs real client programs
// against the same endpoints.
package conformance
