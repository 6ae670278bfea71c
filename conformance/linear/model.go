package linear

import (
	"fmt"
	"hash/maphash"
	"math"

	"github.com/anishathalye/porcupine"
)

// never is when a call returns whose outcome nobody knows.
const never = math.MaxInt64

// Kind says what a call does to one key.
type Kind uint8

// The kinds of calls.
const (
	Read     Kind = iota // GET or HEAD, or what a copy reads
	List                 // what a listing says of the key
	Write                // PUT, or what a copy writes
	Touch                // a copy of the key onto itself with other attributes
	Delete               // DELETE
	Complete             // CompleteMultipartUpload
	Abort                // AbortMultipartUpload
)

var kindNames = [...]string{"read", "list", "write", "touch", "delete", "complete", "abort"}

// MaxUploads is how many uploads of one key a model can tell apart.
const MaxUploads = 64

// Input is what a client asked of a key.
type Input struct {
	Kind    Kind
	ID      uint32 // of what is written, different for all calls; 0 for others
	ETag    string // of what is written
	IfMatch string // ETag that the object must have; empty: no such condition
	IfNone  string // ETag that it must not have, "*" for any; empty: no such condition
	Upload  uint8  // which of the key's uploads, less than MaxUploads
}

// Answer says how a call ended.
type Answer uint8

// The answers.
const (
	Unknown   Answer = iota // it may have been carried out, may be later, or never
	OK                      // it was carried out
	Failed                  // a condition was not met: 412, or 304
	NoKey                   // there is no such object
	NoUpload                // there is no such upload
	Abandoned               // refused for sure, for no reason that says anything of the key
)

var answerNames = [...]string{"?", "ok", "condition failed", "no such key", "no such upload", "refused"}

// Output is what the client was told.
type Output struct {
	Answer Answer
	ID     uint32 // of what was read
	ETag   string // of what was read or listed
}

// object is all that later answers about a key depend on. The zero value is of
// a key that never was.
type object struct {
	id      uint32 // 0: there is none
	etag    string
	done    uint64 // uploads that were completed, a bit each
	aborted uint64
}

// Spec returns the sequential specification of one key.
func Spec() porcupine.Model {
	seed := maphash.MakeSeed()
	return porcupine.Model{
		Init: func() any { return object{} },
		Step: func(state, in, out any) (bool, any) {
			return step(state.(object), in.(*Input), out.(*Output))
		},
		Equal:             func(a, b any) bool { return a.(object) == b.(object) },
		Hash:              func(state any) uint64 { return maphash.Comparable(seed, state.(object)) },
		DescribeOperation: func(in, out any) string { return describe(in.(*Input), out.(*Output)) },
	}
}

// step reports whether the object could answer so, and what it is then. A call
// whose answer is not known is carried out if it can be: that it never was is
// the same as that it comes behind everything else.
func step(o object, in *Input, out *Output) (bool, object) {
	if out.Answer == Abandoned {
		return true, o
	}
	next, answer := o.do(in)
	if out.Answer == Unknown {
		return true, next
	}
	if out.Answer != answer {
		return false, o
	}
	if answer == OK && (in.Kind == Read || in.Kind == List) {
		return o.etag == out.ETag && (in.Kind == List || o.id == out.ID), o
	}
	return true, next
}

// do carries out a call.
func (o object) do(in *Input) (object, Answer) {
	bit := uint64(1) << in.Upload
	switch in.Kind {
	case Complete:
		if o.done&bit != 0 {
			return o, OK // asked once more, it answers the same
		}
		if o.aborted&bit != 0 {
			return o, NoUpload
		}
	case Abort:
		if (o.done|o.aborted)&bit != 0 {
			return o, NoUpload
		}
		o.aborted |= bit
		return o, OK
	case Delete:
		if o.id == 0 && in.IfMatch == "" {
			return o, OK
		}
	case Write:
	default:
		if o.id == 0 {
			return o, NoKey
		}
	}
	if failed := o.fails(in); failed != OK {
		return o, failed
	}
	switch in.Kind {
	case Write, Complete:
		o.id, o.etag = in.ID, in.ETag
	case Touch:
		o.id = in.ID
	case Delete:
		o.id, o.etag = 0, ""
	}
	if in.Kind == Complete {
		o.done |= bit
	}
	return o, OK
}

// fails returns how the conditions of a call fail, OK if they do not.
func (o object) fails(in *Input) Answer {
	switch {
	case in.IfMatch != "" && o.id == 0:
		return NoKey
	case in.IfMatch != "" && o.etag != in.IfMatch,
		in.IfNone == "*" && o.id != 0,
		in.IfNone != "" && o.id != 0 && o.etag == in.IfNone:
		return Failed
	}
	return OK
}

func describe(in *Input, out *Output) string {
	text := kindNames[in.Kind]
	if in.ID != 0 {
		text += fmt.Sprintf(" %d %.8s", in.ID, in.ETag)
	}
	if in.Kind == Complete || in.Kind == Abort {
		text += fmt.Sprintf(" of upload %d", in.Upload)
	}
	if in.IfMatch != "" {
		text += fmt.Sprintf(" if it is %.8s", in.IfMatch)
	}
	if in.IfNone != "" {
		text += fmt.Sprintf(" if it is not %.8s", in.IfNone)
	}
	text += ": " + answerNames[out.Answer]
	if out.ETag != "" {
		text += fmt.Sprintf(" %d %.8s", out.ID, out.ETag)
	}
	return text
}
