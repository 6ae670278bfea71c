// Package wire is S3 as it looks on the wire: error codes, XML bodies, header
// values, names, ranges and conditions.
//
// It turns bytes of a request into values and values into bytes of a reply,
// and nothing else: it opens nothing, decides nothing about buckets or keys,
// and imports no other package of this module. Package gateway joins it to the
// engine.
//
//	request headers, bodies --Parse...,Read...--> values --> engine
//	reply                   <--Encoder, Error---- values <-- engine
//
// Input is read leniently where clients differ (name spaces, quotes around
// ETags, time formats) and always within bounds: a body is read through a
// limit, elements nest to a small depth, entities are never expanded, lists
// stop at S3's limits. Output is strict: one name space, S3's element order,
// every character escaped so that a parser gets back what was stored.
//
// Sources: AWS's Amazon S3 API Reference (actions, data types, error
// responses), RFC 9110 for conditions and ranges, RFC 3986 for escapes.
package wire
