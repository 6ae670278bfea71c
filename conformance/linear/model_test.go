package linear

import (
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// call is one call of a history that was made by hand: when it began and ended,
// what was asked and answered.
type call struct {
	begin, end int64
	in         Input
	out        Output
}

// Calls of hand-made histories. What is written has its number in its ETag.
func put(begin, end int64, id uint32, answer Answer) call {
	return call{begin, end, Input{Kind: Write, ID: id, ETag: tag(id)}, Output{Answer: answer}}
}

func get(begin, end int64, id uint32) call {
	if id == 0 {
		return call{begin, end, Input{}, Output{Answer: NoKey}}
	}
	return call{begin, end, Input{}, Output{Answer: OK, ID: id, ETag: tag(id)}}
}

func remove(begin, end int64, answer Answer) call {
	return call{begin, end, Input{Kind: Delete}, Output{Answer: answer}}
}

func complete(begin, end int64, id uint32, upload uint8, answer Answer) call {
	return call{begin, end, Input{Kind: Complete, ID: id, ETag: tag(id), Upload: upload}, Output{Answer: answer}}
}

func abort(begin, end int64, upload uint8, answer Answer) call {
	return call{begin, end, Input{Kind: Abort, Upload: upload}, Output{Answer: answer}}
}

func listed(begin, end int64, id uint32) call {
	c := get(begin, end, id)
	c.in.Kind, c.out.ID = List, 0
	return c
}

// first has a call need that there is no object.
func (c call) first() call { c.in.IfNone = "*"; return c }

// ifIs has a call need the object with this number.
func (c call) ifIs(id uint32) call { c.in.IfMatch = tag(id); return c }

// ifNot has a read need that the object is not this one.
func (c call) ifNot(id uint32) call { c.in.IfNone = tag(id); return c }

// answered changes the answer.
func (c call) answered(a Answer) call { c.out = Output{Answer: a}; return c }

func tag(id uint32) string { return strings.Repeat(string(rune('a'+id)), 8) }

// TestSpec gives the specification histories of servers that keep their word,
// and of some that do not: it refuses each of these, and none of those.
func TestSpec(t *testing.T) {
	t.Parallel()
	touch := func(begin, end int64, id, was uint32, answer Answer) call {
		return call{begin, end, Input{Kind: Touch, ID: id, IfMatch: tag(was)}, Output{Answer: answer}}
	}
	for _, c := range []struct {
		name    string
		good    bool
		history []call
	}{
		{"kept", true, []call{put(0, 1, 1, OK), get(2, 3, 1), listed(4, 5, 1), remove(6, 7, OK), get(8, 9, 0), listed(10, 11, 0)}},
		{"during a write, old and new", true, []call{put(0, 1, 1, OK), put(2, 9, 2, OK), get(3, 4, 1), get(5, 6, 2)}},
		{"during a write, new and old", false, []call{put(0, 1, 1, OK), put(2, 9, 2, OK), get(3, 4, 2), get(5, 6, 1)}},
		{"stale read", false, []call{put(0, 1, 1, OK), put(2, 3, 2, OK), get(4, 5, 1)}},
		{"stale list", false, []call{put(0, 1, 1, OK), put(2, 3, 2, OK), listed(4, 5, 1)}},
		{"list without the key", false, []call{put(0, 1, 1, OK), listed(4, 5, 0)}},
		{"read of what comes later", false, []call{get(0, 1, 1), put(2, 3, 1, OK)}},
		{"lost write", false, []call{put(0, 1, 1, OK), get(2, 3, 0)}},
		{"lost write, seen once", false, []call{put(0, 1, 1, OK), get(2, 3, 1), get(4, 5, 0)}},
		{"lost overwrite", false, []call{put(0, 1, 1, OK), put(2, 3, 2, OK), get(4, 5, 2), get(6, 7, 1)}},
		{"resurrected", false, []call{put(0, 1, 1, OK), remove(2, 3, OK), get(4, 5, 1)}},
		{"resurrected late", false, []call{put(0, 1, 1, OK), remove(2, 3, OK), get(4, 5, 0), get(6, 7, 1)}},
		{"content and number of two writes", false, []call{put(0, 9, 1, OK), put(0, 9, 2, OK), {10, 11, Input{}, Output{Answer: OK, ID: 1, ETag: tag(2)}}}},
		{"a read without its number", false, []call{put(0, 1, 1, OK), {2, 3, Input{}, Output{Answer: OK, ETag: tag(1)}}}},

		{"no answer, never done", true, []call{put(0, 0, 1, Unknown), get(2, 3, 0), get(8, 9, 0)}},
		{"no answer, done late", true, []call{put(0, 0, 1, Unknown), get(2, 3, 0), get(8, 9, 1)}},
		{"no answer, done and undone", false, []call{put(0, 0, 1, Unknown), get(2, 3, 1), get(8, 9, 0)}},
		{"no answer, done twice", false, []call{put(0, 0, 1, Unknown), get(2, 3, 1), put(4, 5, 2, OK), get(6, 7, 2), get(8, 9, 1)}},
		{"no answer, deleted late", true, []call{put(0, 1, 1, OK), remove(2, 0, Unknown), get(3, 4, 1), get(5, 6, 0)}},
		{"refused for sure, and done", false, []call{put(0, 1, 1, Abandoned), get(2, 3, 1)}},

		{"first writer", true, []call{put(0, 9, 1, OK).first(), put(0, 9, 2, Failed).first(), get(10, 11, 1)}},
		{"two first writers", false, []call{put(0, 9, 1, OK).first(), put(0, 9, 2, OK).first()}},
		{"two first writers with a delete between", true, []call{put(0, 9, 1, OK).first(), put(0, 9, 2, OK).first(), remove(0, 9, OK)}},
		{"a first writer where one is", false, []call{put(0, 1, 1, OK), put(2, 3, 2, OK).first()}},
		{"no first writer where none is", false, []call{put(0, 1, 1, Failed).first()}},
		{"a failed write is seen", false, []call{put(0, 1, 1, OK), put(2, 3, 2, Failed).first(), get(4, 5, 2)}},
		{"first writers, one without an answer", true, []call{put(0, 0, 1, Unknown).first(), put(0, 9, 2, Failed).first(), get(10, 11, 1)}},

		{"compare and set", true, []call{put(0, 1, 1, OK), put(2, 9, 2, OK).ifIs(1), put(2, 9, 3, Failed).ifIs(1), get(10, 11, 2)}},
		{"two that compare and set", false, []call{put(0, 1, 1, OK), put(2, 9, 2, OK).ifIs(1), put(2, 9, 3, OK).ifIs(1)}},
		{"compare and set of what is gone", false, []call{put(0, 1, 1, OK), remove(2, 3, OK), put(4, 5, 2, OK).ifIs(1)}},
		{"compare with none", true, []call{put(0, 1, 2, NoKey).ifIs(1), remove(2, 3, NoKey).ifIs(1)}},
		{"compare, wrongly failed", false, []call{put(0, 1, 1, OK), put(2, 3, 2, Failed).ifIs(1)}},
		{"delete of another", true, []call{put(0, 1, 1, OK), put(2, 3, 2, OK), remove(4, 5, Failed).ifIs(1), remove(6, 7, OK).ifIs(2), get(8, 9, 0)}},
		{"delete of another, done", false, []call{put(0, 1, 1, OK), put(2, 3, 2, OK), remove(4, 5, OK).ifIs(1)}},
		{"read if changed", true, []call{put(0, 1, 1, OK), get(2, 3, 0).answered(Failed).ifNot(1), put(4, 5, 2, OK), get(6, 7, 2).ifNot(1)}},
		{"read if changed, stale", false, []call{put(0, 1, 1, OK), put(2, 3, 2, OK), get(4, 5, 0).answered(Failed).ifNot(1)}},
		{"read of the same, stale", false, []call{put(0, 1, 1, OK), put(2, 3, 2, OK), get(4, 5, 0).answered(Failed).ifIs(2)}},

		{"touched", true, []call{put(0, 1, 1, OK), touch(2, 3, 9, 1, OK), {4, 5, Input{}, Output{Answer: OK, ID: 9, ETag: tag(1)}}}},
		{"touched and lost", false, []call{put(0, 1, 1, OK), touch(2, 3, 9, 1, OK), get(4, 5, 1)}},
		{"touched what was replaced", false, []call{put(0, 1, 1, OK), put(2, 3, 2, OK), touch(4, 5, 9, 1, OK)}},
		{"touched what is gone", true, []call{touch(4, 5, 9, 1, NoKey)}},

		{"completed", true, []call{complete(0, 1, 1, 0, OK), get(2, 3, 1), complete(4, 5, 1, 0, OK), abort(6, 7, 0, NoUpload), get(8, 9, 1)}},
		{"completed again behind a delete", true, []call{complete(0, 1, 1, 0, OK), remove(2, 3, OK), complete(4, 5, 1, 0, OK), get(8, 9, 0)}},
		{"completed twice", false, []call{complete(0, 1, 1, 0, OK), remove(2, 3, OK), complete(4, 5, 1, 0, OK), get(8, 9, 1)}},
		{"completed without an answer, then again", true, []call{complete(0, 0, 1, 0, Unknown), complete(2, 3, 1, 0, OK), remove(4, 5, OK), get(6, 7, 0)}},
		{"completed late, behind the second time", false, []call{complete(0, 0, 1, 0, Unknown), complete(2, 3, 1, 0, OK), remove(4, 5, OK), get(6, 7, 1)}},
		{"completed and lost", false, []call{complete(0, 1, 1, 0, OK), get(2, 3, 0)}},
		{"upload lost", false, []call{complete(0, 1, 1, 0, NoUpload)}},
		{"aborted", true, []call{abort(0, 1, 0, OK), complete(2, 3, 1, 0, NoUpload), complete(4, 5, 2, 1, OK)}},
		{"aborted and completed", false, []call{abort(0, 1, 0, OK), complete(2, 3, 1, 0, OK)}},
		{"aborted once completed", false, []call{complete(0, 1, 1, 0, OK), abort(2, 3, 0, OK)}},
		{"completion that fails leaves the upload", true, []call{put(0, 1, 1, OK), complete(2, 3, 2, 0, Failed).first(), complete(4, 5, 2, 0, OK), get(6, 7, 2)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := &Key{Name: c.name}
			for i, o := range c.history {
				k.Add(i, o.begin, o.end, &o.in, &o.out)
			}
			if err := k.Check(time.Minute); (err == nil) != c.good {
				t.Errorf("good: %v; %v", c.good, err)
			}
		})
	}
}

// TestStepLeavesStates would fail if a state were changed in place, which makes
// a checker overlook things.
func TestStepLeavesStates(t *testing.T) {
	t.Parallel()
	var model porcupine.Model = Spec()
	zero := model.Init()
	ok, one := model.Step(zero, &Input{Kind: Write, ID: 1, ETag: tag(1)}, &Output{Answer: OK})
	if !ok || !model.Equal(zero, model.Init()) || model.Equal(zero, one) || model.Hash(zero) != model.Hash(model.Init()) {
		t.Errorf("%v, %v, %v", ok, zero, one)
	}
}

func TestKeyRemembers(t *testing.T) {
	t.Parallel()
	k := new(Key)
	if got := k.tag(0); got != "" {
		t.Errorf("tag of a new key: %q", got)
	}
	for id := range uint32(6) {
		k.Add(0, int64(id), int64(id)+1, &Input{Kind: Write, ID: id + 1, ETag: tag(id + 1)}, &Output{Answer: OK})
	}
	k.Add(0, 7, 8, &Input{Kind: Read}, &Output{Answer: Unknown})
	k.Add(0, 7, 8, &Input{Kind: Delete}, &Output{Answer: Unknown})
	if k.tag(0) != tag(6) || k.tag(1) != tag(5) || k.tag(99) != tag(3) || k.doubts() != 1 || len(k.ops) != 7 {
		t.Errorf("%v, %d doubts, %d calls", k.seen, k.doubts(), len(k.ops))
	}
	for range MaxUploads {
		if _, ok := k.upload(); !ok {
			t.Fatal("too few uploads")
		}
	}
	if _, ok := k.upload(); ok {
		t.Error("too many uploads")
	}
}
