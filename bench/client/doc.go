// Package client is a lean S3 client for measuring servers: one HTTP/1.1
// connection a worker, bodies that are made and hashed once, Signature
// Version 4 over exactly the headers that are sent, and no layer between the
// caller and the socket. A request costs a few microseconds, so that a server
// on the same machine keeps the processors for itself.
//
// Keys and queries are sent as they are given: they have to be in the
// canonical encoding of Signature Version 4 already, which names made of
// letters, digits, "-", "_", ".", "~" and "/" are.
package client
