// Package gateway is S3 over HTTP: it turns requests into calls of the engine
// and the answers into replies.
//
// Every request takes the same way through [Server.ServeHTTP]:
//
//	accept     request id, one place of a bounded number of requests
//	route      path and query split by hand -> bucket, key, operation
//	verify     Signature V4 -> who is it
//	authorise  the one step that decides: may this key do that there
//	act        the operation's handler: parse, call the engine, reply
//	finish     metrics, access log
//
// Handlers are methods in files by topic (get.go, put.go, list.go ...). They
// return an error only while nothing is written; the one table in errors.go
// turns it into S3's code. After the status line the only honest way to report
// a failure is to break the connection, and that is what happens.
//
// The package keeps no state between requests but counters. Bytes flow from
// the connection through the checks of package sigv4 into the engine and back
// without being gathered anywhere here; what a request may hold is bounded.
//
// Calls that Ruche does not offer answer 501 NotImplemented with the reason in
// the message, never a success that does nothing.
package gateway
