package object

import "io"

// NewObject returns an open object of the given information that yields body,
// which may be nil. It is for stand-ins of the engine in tests of its callers.
// body must implement [io.WriterTo], as the engine's does.
func NewObject(o Object, body io.ReadCloser) *Object {
	o.body = body
	return &o
}
